"""`python -m experiments.checkpoints`: tables, exit statuses, one-line errors."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from experiments import checkpoints
from loop import checkpoint

ROOT = Path(__file__).resolve().parents[2]


def make_run(directory: Path, steps: tuple[int, ...] = (10, 20), seed: int = 0) -> Path:
    """A run's directory with a checkpoint for each of `steps`."""
    rng = np.random.default_rng(seed)
    for step in steps:
        state = {
            "model/kernel": tf.Variable(rng.normal(2.0, 1.0, (6, 5)).astype(np.float32)),
            "model/bias": tf.Variable(np.arange(5, dtype=np.float32)),
            "global_step": tf.Variable(step, dtype=tf.int64),
        }
        checkpoint.save(directory, step, state, {"seed": seed, "configuration": {"rate": 0.5}})
    return directory


def test_list_has_a_line_for_each_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Step, time, size, variables and path of each, oldest first; damage does not stop it."""
    run = make_run(tmp_path, (10, 20, 30))
    (run / "checkpoint-000000000020" / "manifest.json").unlink()
    assert checkpoints.main(["list", str(run)]) == 0
    header, first, second, third = capsys.readouterr().out.splitlines()
    assert header.split() == ["step", "written", "(UTC)", "MiB", "variables", "path"]
    assert first.split()[0] == "10"
    assert first.split()[3:] == ["3", str(run / "checkpoint-000000000010")]
    assert "manifest.json: missing" in second
    assert third.split()[0] == "30"


def test_verify_exits_with_one_on_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each checkpoint is called sound or its damaged file named; a single one can be verified."""
    run = make_run(tmp_path)
    good, bad = run / "checkpoint-000000000010", run / "checkpoint-000000000020"
    assert checkpoints.main(["verify", str(run)]) == 0
    assert capsys.readouterr().out == f"{good}: sound\n{bad}: sound\n"
    content = bytearray((bad / "state.data-00000-of-00001").read_bytes())
    content[7] ^= 4
    (bad / "state.data-00000-of-00001").write_bytes(content)
    assert checkpoints.main(["verify", str(run)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{good}: sound"
    assert second.startswith(f"{bad}: state.data-00000-of-00001: SHA-256 is ")
    assert checkpoints.main(["verify", str(good)]) == 0
    assert checkpoints.main(["verify", str(good), str(bad)]) == 1


def test_diff_says_which_variables_and_by_how_much(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counts, largest and mean distance as NumPy has them; one-sided names; metadata."""
    rng = np.random.default_rng(1)
    kernel = rng.normal(5.0, 1.0, (4, 3)).astype(np.float32)
    moved = kernel.copy()
    moved[1, 2] += 0.75
    moved[3, 0] -= 0.25
    first = {
        "kernel": tf.Variable(kernel),
        "same": tf.Variable([np.nan, 1.0]),
        "zero": tf.Variable([0.0, 2.0]),
        "shape": tf.Variable([1, 2]),
        "old": tf.Variable(1),
    }
    second = {
        "kernel": tf.Variable(moved),
        "same": tf.Variable([np.nan, 1.0]),
        "zero": tf.Variable([-0.0, 2.0]),
        "shape": tf.Variable([1, 2, 3]),
        "new": tf.Variable(1),
    }
    a = checkpoint.save(tmp_path / "a", 1, first, {"rate": 0.1, "seed": 1})
    b = checkpoint.save(tmp_path / "b", 2, second, {"rate": 0.2, "seed": 1})
    assert checkpoints.main(["diff", str(tmp_path / "a"), str(b)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"A {a}", f"B {b}"]
    cells = {line.split()[0]: line.split() for line in lines[3:8]}
    distance = np.abs(moved.astype(np.float64) - kernel)
    assert cells["kernel"][1:4] == ["2", "of", "12"]
    assert float(cells["kernel"][4]) == pytest.approx(distance.max(), rel=0.01)
    assert float(cells["kernel"][5]) == pytest.approx(distance.mean(), rel=0.01)
    assert float(cells["kernel"][6]) == pytest.approx(np.abs(kernel).max(), rel=0.01)
    assert cells["zero"][1:5] == ["1", "of", "2", "0"]
    assert cells["shape"][1:4] == ["int32[2]", "/", "int32[3]"]
    assert cells["old"][1:4] == ["only", "in", "A"]
    assert cells["new"][1:4] == ["only", "in", "B"]
    assert lines[8] == "5 of 6 variables differ"
    assert lines[-1] == "rate: saved 0.1, now 0.2"
    assert checkpoints.main(["diff", str(a), str(a)]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == ["0 of 5 variables differ", "same metadata"]


def test_damage_in_a_diff_and_no_checkpoint_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both give exit status 1 and one line on stderr."""
    run = make_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (run / "checkpoint-000000000020" / "state.index").unlink()
    for arguments in (["diff", str(run), str(run)], ["verify", str(tmp_path / "empty")]):
        assert checkpoints.main(arguments) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("experiments.checkpoints: ")
        assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate", "."],
        ["list"],
        ["list", "/does/not/exist"],
        ["verify", __file__],
        ["diff", "."],
        ["diff", ".", ".", "."],
        ["list", "--fast", "."],
    ],
)
def test_bad_usage_is_one_line_and_exit_status_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad commands, counts, options and paths exit with 2, in one line that names the help."""
    with pytest.raises(SystemExit) as raised:
        checkpoints.main(arguments)
    assert raised.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "--help" in captured.err


def test_the_command_itself(tmp_path: Path) -> None:
    """As a process it prints the table and nothing of TensorFlow's on stdout."""
    run = make_run(tmp_path, (7,))
    done = subprocess.run(
        [sys.executable, "-m", "experiments.checkpoints", "verify", str(run)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{run / 'checkpoint-000000000007'}: sound\n"
