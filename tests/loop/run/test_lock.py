"""One run a directory: real processes that hold, die and leave stale locks."""

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loop.run.lock import RunLock, RunLockError

ROOT = Path(__file__).resolve().parents[3]

# The file itself, not the package: a holder need not import TensorFlow.
HOLDER = """
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("run_lock", sys.argv[1])
run_lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run_lock)
try:
    with run_lock.RunLock(sys.argv[2]):
        print("held", flush=True)
        if sys.argv[3] == "hold":
            time.sleep(60)
except run_lock.RunLockError as error:
    print(error, flush=True)
    sys.exit(2)
"""


def start(directory: Path, mode: str) -> "subprocess.Popen[str]":
    """A process that takes the lock and says so."""
    module = str(ROOT / "loop" / "run" / "lock.py")
    command = [sys.executable, "-c", HOLDER, module, str(directory), mode]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process


def test_the_second_run_names_the_first(tmp_path: Path) -> None:
    """While a process holds the lock, another one and this one are refused with its number."""
    with start(tmp_path / "run", "hold") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with start(tmp_path / "run", "try") as second:
            output, _ = second.communicate(timeout=30)
        assert second.returncode == 2
        assert f"in use by another run, process {first.pid} on " in output
        assert output.count("\n") == 1
        with pytest.raises(RunLockError, match=f"process {first.pid}") as raised:
            RunLock(tmp_path / "run").acquire()
        assert raised.value.pid == first.pid
        first.kill()


def test_a_killed_run_leaves_no_lock(tmp_path: Path) -> None:
    """After kill -9 the lock is free at once, though the file with the old number stays."""
    with start(tmp_path, "hold") as first:
        assert first.stdout is not None
        first.stdout.readline()
        first.kill()
        first.wait()
    assert str(first.pid) in (tmp_path / "run.lock").read_text()
    with RunLock(tmp_path) as lock:
        assert lock.held
        assert str(os.getpid()) in lock.path.read_text()
    assert not lock.held
    assert lock.path.read_text() == ""


def test_lock_is_exclusive_within_a_process_and_reusable(tmp_path: Path) -> None:
    """Two objects exclude each other; released, the lock can be taken again."""
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    with first:
        with pytest.raises(RunLockError, match=f"process {os.getpid()}"):
            second.acquire()
        with pytest.raises(RunLockError, match="already held by this object"):
            first.acquire()
    with second:
        pass
    with first:
        pass
    first.release()


@pytest.mark.parametrize("content", ["", "garbage", "[1]", '{"pid": 999999999}', '{"pid": "x"}'])
def test_strange_contents_do_not_matter(tmp_path: Path, content: str) -> None:
    """Only the lock counts: whatever stands in a free lock file, it is taken over."""
    (tmp_path / "run.lock").write_text(content)
    with RunLock(tmp_path):
        pass


def test_unknown_holder_is_said_after_a_moment(tmp_path: Path) -> None:
    """A holder that signed nothing is waited for about a second, then reported as unknown."""
    with RunLock(tmp_path) as holder:
        holder.path.write_text("")
        start_time = time.monotonic()
        with pytest.raises(RunLockError, match="process unknown"):
            RunLock(tmp_path).acquire()
        assert time.monotonic() - start_time < 10


def test_paths_that_cannot_be_locked(tmp_path: Path) -> None:
    """A file in the directory's place and a link in the lock's place are named in one line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunLockError, match=r"cannot be taken: .* \[E"):
        RunLock(tmp_path / "file").acquire()
    target = tmp_path / "target"
    (tmp_path / "run.lock").symlink_to(target)
    with pytest.raises(RunLockError, match=r"\[ELOOP\]"):
        RunLock(tmp_path).acquire()
    assert not target.exists()


def test_a_second_holder_in_this_process_is_told_so(tmp_path: Path) -> None:
    """The message speaks of this process and of closing, not of another run."""
    with (
        RunLock(tmp_path),
        pytest.raises(RunLockError, match=r"another trainer in this process \d+, .*close\(\)"),
    ):
        RunLock(tmp_path).acquire()


def test_a_collected_holder_gives_the_lock_back(tmp_path: Path) -> None:
    """An object that nobody has any more leaves neither the lock nor a descriptor."""
    before = len(os.listdir("/proc/self/fd"))
    lock = RunLock(tmp_path)
    lock.acquire()
    del lock
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    with RunLock(tmp_path) as second:
        assert second.held
