"""What only shows does not end a run: real runs whose output and terminal go."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_TRAIN = (
    *(sys.executable, "-m", "experiments.train", "--model=mlp", "--batch_size=32"),
    *("--compile=graph", "--log_every=2"),
)
# Outputs are buffered, as a user's are: that they cannot be written shows when they are flushed.
_QUIET = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def _ended(directory, stdout, stderr, *prefix, unbuffered=""):
    command = [*prefix, *_TRAIN, "--steps=8", f"--directory={directory}"]
    environment = {**_QUIET, "PYTHONUNBUFFERED": unbuffered}
    return subprocess.run(
        command, cwd=ROOT, env=environment, stdout=stdout, stderr=stderr, timeout=300, check=False
    )


def _is_whole(directory):
    names = os.listdir(directory)
    return {"result.json", "checkpoint-000000000008"} <= set(names)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_results_that_cannot_be_shown_are_said(unbuffered, tmp_path):
    """A full standard output: the run is whole on disk, one line says why, the status is 1."""
    with open("/dev/full", "w") as full:
        ended = _ended(tmp_path, full, subprocess.PIPE, unbuffered=unbuffered)
    assert ended.returncode == 1
    assert _is_whole(tmp_path)
    lines = ended.stderr.decode().splitlines()
    assert lines[-1].startswith("error: standard output: not all was written (No space left")
    assert sum("error" in line for line in lines) == 1


def test_a_reader_that_leaves_ends_nothing(tmp_path):
    """`| head`: the pipe is closed before the first result."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = _ended(tmp_path, writer, subprocess.PIPE)
    os.close(writer)
    assert ended.returncode == 1
    assert _is_whole(tmp_path)


@pytest.mark.parametrize("how", ["full", "closed"])
def test_progress_that_cannot_be_shown_changes_nothing(how, tmp_path):
    """Without a standard error the status is 0 and the results are shown."""
    with open("/dev/full", "w") as full:
        prefix = () if how == "full" else ("sh", "-c", '"$@" 2>&-', "sh")
        ended = _ended(tmp_path, subprocess.PIPE, full, *prefix)
    assert ended.returncode == 0
    assert _is_whole(tmp_path)
    assert b"accuracy" in ended.stdout


def _running(directory, *prefix):
    """A long run after its first rows."""
    command = [*prefix, *_TRAIN, "--steps=100000", "--steps_per_call=5", f"--directory={directory}"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=_QUIET, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    rows = directory / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not rows.exists() or rows.stat().st_size < 5000:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def test_a_closed_terminal_saves(tmp_path):
    """SIGHUP ends the run as SIGTERM does: a checkpoint, and 128 + its number."""
    process = _running(tmp_path)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 129
    assert list(tmp_path.glob("checkpoint-*"))


def test_nohup_keeps_a_run(tmp_path):
    """Where SIGHUP is ignored it stays so; SIGTERM still ends the run."""
    process = _running(tmp_path, "nohup")
    process.send_signal(signal.SIGHUP)
    size = (tmp_path / "metrics.jsonl").stat().st_size
    deadline = time.monotonic() + 60
    while (tmp_path / "metrics.jsonl").stat().st_size < size + 5000:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == 143


@pytest.mark.parametrize(
    "arguments",
    [("experiments.train", "--help"), ("experiments.checkpoints", "list", "{run}")],
)
def test_what_is_asked_for_and_not_shown_is_said(arguments, tmp_path):
    """A help and a list to a pipe that is closed: one line and status 1, no traceback."""
    with open(os.devnull, "w") as nowhere:
        assert _ended(tmp_path, nowhere, nowhere).returncode == 0
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", *(part.format(run=tmp_path) for part in arguments)]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env=_QUIET,
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    os.close(writer)
    assert ended.returncode == 1
    assert ended.stderr.decode() == "error: standard output: not all was written (Broken pipe)\n"


def _small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_a_full_disk_is_no_bad_input(tmp_path):
    """A checkpoint that does not fit ends the run with 1, in one line; 2 is the user's input."""
    command = [*_TRAIN, "--steps=8", f"--directory={tmp_path}"]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env=_QUIET,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=_small_files,
    )
    assert ended.returncode == 1
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "File too large" in errors[0]
    assert "Traceback" not in ended.stderr
