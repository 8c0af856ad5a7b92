"""The flags of the outer loop, through the trainer's own main."""

import json

import numpy as np
import pytest
import tensorflow as tf

import loop
from experiments import flags, train
from experiments.data import datasets
from experiments.entry.errors import InputError
from loop import checkpoint
from loop.actions.monitor import read_evaluations

_SMALL = ["train", "--model=mlp", "--batch_size=64", "--compile=graph", "--log_every=1000"]


def _run(directory, *arguments):
    """Trains in this process: exit status, and what it left."""
    status = train.main([*_SMALL, f"--directory={directory}", *arguments])
    return status, json.loads((directory / "result.json").read_text())


def test_a_run_with_everything_stops_early_and_stays_stopped(tmp_path):
    """Averages, plateau, best checkpoints and early stopping in one run; run again, it is over."""
    options = [
        *("--ema=0.9", "--lookahead=3", "--eval_every=4", "--monitor=accuracy", "--steps=400"),
        *("--early_stop=3", "--keep_best=2", "--keep_last=1", "--plateau=1"),
        *("--plateau_factor=0.5", "--precision=mixed_bfloat16"),
    ]
    status, result = _run(tmp_path, *options)
    assert status == 0
    assert result["stopped"].startswith("accuracy has had no better value than")
    assert 12 < result["step"] < 400
    evaluations = read_evaluations(tmp_path / "evaluations.jsonl")
    accuracy = {step: found["accuracy"] for step, found in evaluations}
    best = sorted(accuracy, key=lambda step: (-accuracy[step], step))[:2]
    kept = [found.step for found in checkpoint.scan(tmp_path)]
    assert kept == sorted({*best, result["step"]})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = np.array([row["learning_rate"] for row in rows])
    assert rates[-1] < rates[0]
    np.testing.assert_array_equal(np.log2(rates[0] / rates) % 1, 0)
    status, again = _run(tmp_path, *options)
    assert (status, again["step"]) == (0, result["step"])
    assert again["state_sha256"] == result["state_sha256"]


@pytest.mark.parametrize(("steps", "computed"), [(8, 2), (10, 3)])
def test_the_last_step_is_evaluated_once(tmp_path, monkeypatch, steps, computed):
    """Where training ends at an evaluation's boundary, that one is the result's."""
    evaluate, called = loop.Trainer.evaluate, []

    def counted(trainer):
        called.append(int(trainer.global_step))
        return evaluate(trainer)

    monkeypatch.setattr(loop.Trainer, "evaluate", counted)
    status, result = _run(tmp_path, "--eval_every=4", f"--steps={steps}")
    assert status == 0
    assert called == [4, 8, 10][:computed]
    step, found = read_evaluations(tmp_path / "evaluations.jsonl")[-1]
    assert (step, found["loss"]) == (steps, result["test_loss"])


def test_a_dry_run_tells_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    """Parameters, operations and bytes of the MLP follow from its sizes; no file is made."""
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "--model=mlp", "--batch_size=32", "--steps=10", "--accumulate=2"]
    assert train.main([*arguments, "--dry_run", "--optimizer=momentum", "--compile=graph"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    sizes = [(64, 512), (512, 256), (256, 10)]
    parameters = sum(a * b for a, b in sizes) + 10 + 2 * (512 + 256)
    assert f"parameters │ {parameters:,} " in printed
    # Weights and velocities, the norms' statistics, and the two int64 counters.
    state = 4 * (2 * parameters + 2 * (512 + 256)) + 16
    assert f"state │ {state / 2**20:.4g} MiB in" in printed
    assert "steps │ 10, 0.223 epochs" in printed
    assert "compile │ a graph, one call for up to" in printed
    assert list(tmp_path.iterdir()) == []


def test_the_range_test_suggests_and_trains_nothing(tmp_path, capsys, monkeypatch):
    """It leaves its table alone, and the rate that it prints is the table's."""
    monkeypatch.chdir(tmp_path)
    assert train.main([*_SMALL, "--optimizer=sgd", "--find_learning_rate=rates"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    rates = np.genfromtxt(tmp_path / "rates.csv", delimiter=",", names=True)
    assert rates["learning_rate"][0] == np.float32(1e-6)
    turning = rates["learning_rate"][rates["smoothed"].argmin()]
    assert f"--learning_rate={turning / 10:.3g} " in printed
    assert 1e-3 < turning / 10 < 1
    names = {path.name for path in tmp_path.iterdir()}
    assert names <= {"rates.csv", "rates.png"}
    assert ("rates.png" in names) == ("plot │ rates.png" in printed)


@pytest.fixture(scope="module")
def handed_over(tmp_path_factory):
    """A run of 30 steps that was traced, predicted and exported: its folder and result."""
    folder = tmp_path_factory.mktemp("first")
    paths = [f"--predict={folder}/out.npz", f"--export={folder}/model"]
    status, result = _run(
        folder / "run", "--steps=30", "--ema=0.8", "--profile=10:14", "--eval_every=30", *paths
    )
    assert status == 0
    return folder, result


def test_predictions_and_the_export_are_the_evaluated_model(handed_over):
    """The averaged weights give accuracy, predictions and the SavedModel's logits alike."""
    folder, result = handed_over
    data = datasets.load("digits", None)
    out = np.load(folder / "out.npz")
    np.testing.assert_array_equal(out["label"], data.test_labels)
    accuracy = np.mean(out["logits"].argmax(-1) == out["label"])
    np.testing.assert_allclose(accuracy, result["test_accuracy"], rtol=1e-12)
    serve = tf.saved_model.load(str(folder / "model")).signatures["serving_default"]
    image = tf.constant(data.test_images.astype(np.float32) * np.float32(data.scale))
    found = serve(image=image)
    np.testing.assert_allclose(found["logits"], out["logits"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(tf.reduce_sum(found["probabilities"], -1), 1.0, rtol=1e-5)
    assert len(list((folder / "run" / "profile").glob("plugins/profile/*/*.xplane.pb"))) == 1


def test_what_a_command_asks_for_once_is_not_repeated(handed_over):
    """The stored flagfile neither exports nor traces again."""
    stored = (handed_over[0] / "run" / "flags.txt").read_text()
    assert "--ema=0.8" in stored
    for name in ("export", "predict", "profile"):
        assert f"--{name}=" not in stored


def test_a_warm_start_goes_on_from_the_weights(handed_over, tmp_path, caplog):
    """Its first loss is a trained model's; averages start there; another model is refused."""
    first = handed_over[0] / "run"
    caplog.set_level("INFO", logger="loop")
    status, result = _run(tmp_path / "a", "--steps=1", "--ema=0.8", f"--init_from={first}")
    assert status == 0
    assert any("step 30: 12 variables set" in record.message for record in caplog.records)
    rows = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[0])["loss"] < 0.3
    assert result["test_accuracy"] > 0.9
    caplog.clear()
    _run(tmp_path / "a", "--steps=2", "--ema=0.8", f"--init_from={first}")
    assert not any("warm start" in record.message for record in caplog.records)
    options = ["--model=cnn", f"--directory={tmp_path}/b", "--steps=1", f"--init_from={first}"]
    assert train.main([*_SMALL, *options, "--model=keras_cnn"]) == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--early_stop=2"], "--early_stop: expected --eval_every beside it"),
        (["--plateau=2"], "--plateau: expected --eval_every beside it"),
        (["--keep_best=2"], "--keep_best: expected --eval_every beside it"),
        (["--monitor=accuracy"], "--monitor: expected --early_stop, --keep_best or --plateau"),
        (["--plateau_factor=0.5"], "--plateau_factor: expected --plateau beside it"),
        (["--ema=1"], "--ema: expected a number from 0 below 1"),
        (["--profile=0:5"], "--profile: expected FIRST:LAST with 1 <= FIRST < LAST, found 0:5"),
        (["--profile=7"], "--profile: expected FIRST:LAST"),
        (["--init_from=/nowhere"], "--init_from=/nowhere: expected the folder of a run"),
        (["--export=/"], "--export=/: expected a path where nothing is"),
        (["--predict=out.txt"], "--predict=out.txt: expected a name that ends in .npz"),
        (["--dry_run", "--find_learning_rate=a"], "--dry_run: expected either --dry_run or"),
        (["--find_learning_rate=no/a"], "--find_learning_rate=no/a: expected a name in an"),
        (["--keep_last=0"], "--keep_last: expected a whole number from 1"),
    ],
)
def test_flags_without_a_meaning_are_refused(arguments, named):
    """A decision needs evaluations, an option its decision."""
    with pytest.raises(InputError) as raised:
        flags.parse(["train", *arguments])
    assert str(raised.value).startswith(named)
