"""A run that stops at a step which is not finite, and the program that says why."""

import json
import re
from pathlib import Path

import pytest

from experiments import replay, train
from experiments.entry import run_main
from experiments.entry.errors import InputError
from loop import checkpoint
from loop.nonfinite import replay_file as replay_files
from tests.experiments import lines

FLAGS = ("--model=mlp", "--optimizer=sgd", "--batch_size=32", "--steps=6", "--log_every=3")


def _train(directory, *flags):
    return train.main(["train", *FLAGS, f"--directory={directory}", *flags])


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run whose first update is so large that its second step overflows."""
    directory = tmp_path_factory.mktemp("run") / "run"
    assert _train(directory, "--learning_rate=1e25", "--compile=graph") == 1
    return directory


def _file(directory):
    (found,) = Path(directory).glob("nonfinite-*.json")
    return found


def test_the_run_ends_with_1_and_one_line(tmp_path, capsys):
    """The line names step, variables, seed, examples and file; result.json is not written."""
    directory = tmp_path / "run"
    flags = ("--learning_rate=1e25", "--compile=graph", "--seed=9")
    assert _train(directory, *flags) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    for named in (
        "step 1 is not finite after 1 such steps in a row (loss=nan",
        "gradients that are not finite: hidden1/kernel, ",
        "the state is that of step 1; seed 9, examples ",
        f"replay file {_file(directory)}",
    ):
        assert named in errors[0]
    assert not (directory / "result.json").exists()
    assert [found.step for found in checkpoint.scan(directory)] == [1]
    # The same command stops at the same step; told to skip, it stops after as many as allowed.
    assert _train(directory, *flags) == 1
    assert "step 1 is not finite after 1 such" in capsys.readouterr().err
    assert _train(directory, *flags, "--on_nonfinite=skip", "--max_nonfinite=2") == 1
    assert "step 3 is not finite after 3 such" in capsys.readouterr().err


def test_the_first_value_is_found(stopped, capsys):
    """Operation, layer, line of code and variables, from the file alone; it writes nothing."""
    before = sorted(stopped.iterdir())
    assert replay.main(["replay", str(_file(stopped))]) == 0
    said = capsys.readouterr().out
    assert "step 1 again, eagerly on one replica: seed 0, state checkpoint-000000000001" in said
    (first,) = [line for line in said.splitlines() if line.startswith("first value")]
    assert "forward pass, operation Square at " in first
    assert "batch_norm.py:" in first
    assert "in layer 'norm1'" in first
    assert re.search(r"output: float32\[\d+, \d+\] \d+ infinite", first)
    assert "gradients that are not finite: hidden1/kernel, " in said
    assert sorted(stopped.iterdir()) == before


def test_a_finite_step_ends_with_1(tmp_path, capsys):
    """Where the step is finite after all, the program says so and ends with another status."""
    assert _train(tmp_path, "--compile=eager") == 0
    (found,) = checkpoint.scan(tmp_path)
    manifest = checkpoint.read_manifest(found.path)
    flags = [*FLAGS, "--learning_rate=0.1"]
    replay_files.Replay(
        step=6,
        seed=0,
        checkpoint=found.path.name,
        state_sha256=manifest.state_sha256,
        row={},
        example_ids=None,
        variables=None,
        rebuild={"flags": flags},
    ).write(tmp_path)
    assert replay.main(["replay", str(_file(tmp_path))]) == replay.EXIT_FINITE == 1
    assert "the step is finite" in capsys.readouterr().out


def test_where_a_run_went_is_not_replayed(tmp_path):
    """Directory, devices, compiler, shards and what was fetched are left to the replay."""
    (tmp_path / "file").write_text("the shards are gone")
    went = [
        *("--directory=d", "--strategy=mirrored", "--virtual_devices=2", "--compile=xla"),
        *("--download=true", "--dump_weights=w.npz", "--init_from=a", "--feed=records"),
        f"--records={tmp_path}/file/shards",
    ]
    kept = ["--learning_rate=0.1", "--data_dir=d", "--batch_norm=synchronized"]
    assert replay._flags("file", {"flags": [*went, *kept]}) == kept


def _refused(*arguments):
    with pytest.raises(InputError) as raised:
        replay.main(["replay", *arguments])
    return raised.value


def test_bad_input_is_refused_in_one_line(stopped, tmp_path):
    """No file, another file, a file apart from its checkpoint, flags that do not fit."""
    lines.check(_refused(), "expected a replay file, found nothing")
    lines.check(_refused("--seed=1"), "found --seed=1")
    lines.check(_refused(str(tmp_path / "none.json")), "No such file")
    text = _file(stopped).read_text()
    moved = tmp_path / _file(stopped).name
    moved.write_text(text)
    lines.check(_refused(str(moved)), "checkpoint-000000000001")
    moved.write_text(json.dumps({**json.loads(text), "rebuild": {}}))
    lines.check(_refused(str(moved)), "with flags")
    moved.write_text("{")
    lines.check(_refused(str(moved)), "no replay file")
    lines.check(_refused(str(_file(stopped)), "--model=cnn"), "holds other variables")
    lines.check(_refused(str(_file(stopped)), "--modle=cnn"), "did you mean --model?")
    assert run_main.EXIT_BAD_INPUT == 2
