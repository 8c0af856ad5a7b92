"""`--feed`, `--metrics` and `--tensorboard`, through the trainer's own main."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from experiments import flags, replay, train
from experiments.data import datasets
from experiments.entry.errors import InputError
from experiments.training import evaluation_metrics, training_run
from loop import distribute
from tests.experiments import lines

_RUN = [
    *("train", "--model=mlp", "--batch_size=32", "--compile=graph", "--dropout=0.2"),
    *("--augment=article", "--mixup=0.2", "--log_every=1000"),
]
_STREAMED = "--feed=records"


def _run(directory, *arguments):
    """Trains in this process; what it left."""
    assert train.main([*_RUN, f"--directory={directory}", *arguments]) == 0
    return json.loads((directory / "result.json").read_text())


@pytest.fixture(scope="module")
def resident(tmp_path_factory):
    """60 steps on resident arrays, evaluated and watched: (directory, result)."""
    directory = tmp_path_factory.mktemp("runs") / "resident"
    options = ["--steps=60", "--eval_every=20", "--tensorboard", f"--predict={directory}.npz"]
    return directory, _run(directory, *options, "--metrics=top_3, confusion,auc_7")


def test_a_streamed_run_is_the_resident_one(resident, tmp_path):
    """To the last bit: uncut, cut at step 23, and gone on from one feed to the other and back."""
    expected = resident[1]["state_sha256"]
    records = f"--records={tmp_path / 'shared'}"
    whole = tmp_path / "whole"
    assert _run(whole, "--steps=60", _STREAMED)["state_sha256"] == expected
    assert (whole / "records" / "digits" / "index.json").exists()
    cut = tmp_path / "cut"
    _run(cut, "--steps=23", _STREAMED, records, "--steps_per_call=5")
    assert not (cut / "records").exists()
    found = _run(cut, "--steps=60", _STREAMED, records, "--steps_per_call=7")
    assert (found["state_sha256"], found["step"]) == (expected, 60)
    changed = tmp_path / "changed"
    _run(changed, "--steps=23", _STREAMED, records)
    _run(changed, "--steps=41")
    assert _run(changed, "--steps=60", _STREAMED, records)["state_sha256"] == expected


def test_chosen_metrics_are_those_of_the_predictions(resident):
    """Top-3, the confusion matrix and the AUC of one class, NumPy's from all test examples."""
    directory, result = resident
    with np.load(f"{directory}.npz") as predicted:
        logits, labels = predicted["logits"].astype(np.float64), predicted["label"]
    own = logits[np.arange(len(labels)), labels]
    rank = (logits > own[:, None]).sum(1)
    matrix = np.zeros([10, 10], int)
    np.add.at(matrix, (labels, logits.argmax(1)), 1)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    score = (shares / shares.sum(1, keepdims=True))[:, 7]
    pairs = score[labels == 7][:, None] - score[labels != 7]
    assert result["test_top_3"] == (rank < 3).mean()
    assert result["test_top_3"] > result["test_accuracy"] == np.trace(matrix) / len(labels)
    assert result["test_confusion"] == matrix.tolist()
    assert result["test_auc_7"] == pytest.approx((pairs > 0).mean(), abs=1e-4)
    last = json.loads((directory / "evaluations.jsonl").read_text().splitlines()[-1])
    assert {f"test_{name}": value for name, value in last.items() if name != "step"} == {
        name: value for name, value in result.items() if name.startswith("test_")
    }


def test_tensorboard_has_every_step_and_evaluation(resident):
    """Its own reader finds metrics.jsonl's numbers, and a point for each evaluation."""
    directory, result = resident
    reader = event_accumulator.EventAccumulator(str(directory / "tensorboard"), {"scalars": 0})
    reader.Reload()
    curves = {
        tag: {event.step: event.value for event in reader.Scalars(tag)}
        for tag in reader.Tags()["scalars"]
    }
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert curves["train/loss"] == {row["step"]: np.float32(row["loss"]) for row in rows}
    assert {"train/learning_rate", "train/gradient_norm", "test/top_3"} <= set(curves)
    assert "test/confusion" not in curves
    assert list(curves["test/accuracy"]) == [20, 40, 60]
    assert curves["test/loss"][60] == np.float32(result["test_loss"])


def test_a_run_that_diverged_has_an_evaluation(tmp_path):
    """Logits that are not numbers have a loss and an area that are none: null in the file."""
    options = ["--learning_rate=1e25", "--optimizer=sgd", "--on_nonfinite=skip", "--steps=3"]
    assert _run(tmp_path / "run", *options, "--metrics=auc_7,top_3,confusion")["test_top_3"] >= 0
    (line,) = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(line)["auc_7"] is None


def test_a_streamed_run_is_replayed_without_its_shards(tmp_path, capsys):
    """What failed on a streamed batch is computed again from the same examples; none is written."""
    run, folder = tmp_path / "run", tmp_path / "shards"
    options = [_STREAMED, f"--records={folder}", "--learning_rate=1e25", "--optimizer=sgd"]
    assert train.main([*_RUN, f"--directory={run}", *options, "--steps=6"]) == 1
    shutil.rmtree(folder)
    (file,) = run.glob("nonfinite-*.json")
    assert replay.main(["replay", str(file)]) == 0
    assert "first value that is not finite" in capsys.readouterr().out
    assert not folder.exists()


def test_a_dry_run_keeps_no_shards(tmp_path, capsys, monkeypatch):
    """What streams is nothing on the device, and nothing stays on the disk."""
    monkeypatch.chdir(tmp_path)
    arguments = [*_RUN, "--steps=10", _STREAMED, "--records=new"]
    assert train.main([*arguments, "--dry_run"]) == 0
    assert "resident data │ 0 bytes" in " ".join(capsys.readouterr().out.split())
    assert list(tmp_path.iterdir()) == []


def test_workers_that_share_no_place_are_refused():
    """Where each worker finds the shards must be said."""
    settings = flags.parse(["train", _STREAMED])
    two = dataclasses.replace(distribute.single(), workers=2, worker=1)
    with pytest.raises(InputError) as caught:
        training_run._folders(settings, two)
    lines.check(caught.value, "--records or --directory beside it")
    given = dataclasses.replace(settings, records="shards")
    assert training_run._folders(given, two)[1] == pathlib.Path("shards")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--records=x"], "--feed=records beside it"),
        ([_STREAMED, "--records=/dev/null/x"], "--records=/dev/null/x"),
        ([_STREAMED, "--records= x"], "printable characters"),
        (["--metrics=top_3,top_3"], "each metric once"),
        (["--metrics=top_0"], "top_K, confusion or auc_C"),
        (["--metrics=recall"], "top_K, confusion or auc_C"),
        (["--metrics="], "top_K, confusion or auc_C"),
        (["--metrics=accuracy"], "it is always there"),
    ],
)
def test_flags_that_make_no_sense_are_refused(arguments, named):
    """Before TensorFlow is needed, in one line."""
    with pytest.raises(InputError) as caught:
        flags.parse(["train", *arguments])
    lines.check(caught.value, named)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("top_11", "the 10 classes of digits"),
        ("auc_10", "a class from 0 to 9"),
        ("auc_4", "test examples of this class and of others"),
    ],
)
def test_metrics_that_the_data_does_not_have_are_refused(text, named):
    """K and class against the data set's classes; an area needs both kinds of examples."""
    data = datasets.load("digits")
    without_4 = np.where(data.test_labels == 4, 5, data.test_labels)
    data = dataclasses.replace(data, test_labels=without_4)
    settings = flags.parse(["train", f"--metrics={text}"])
    with pytest.raises(InputError) as caught:
        evaluation_metrics.EvaluationMetrics(settings, data)
    lines.check(caught.value, named)
