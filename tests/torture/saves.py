"""Faults during saves, caused for real and counted: tried, survived, lost.

    python -m tests.torture.saves --kills=200 --damages=300 --limits=100 --system_calls

Every victim is a process of its own, forked before TensorFlow's runtime starts, and killed, starved
of disk or made to fail at a system call by strace. A fault is survived if the newest checkpoint
that was reported as saved (or a newer one) restores with the right values, nothing half-written is
found, and orphans are gone after the next start. The exit status is 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from loop import checkpoint
from loop.run.lock import RunLock
from tests.torture.table import Count, progress, show

KILLED_CALLS = ("mkdir", "openat", "write", "fsync", "rename", "unlink", "unlinkat", "rmdir")
FULL_CALLS = ("mkdir", "openat", "write", "fsync", "rename")
LEFT_BY_A_RUN = re.compile(r"checkpoint-\d{12}|damaged-checkpoint-\d{12}-[0-9a-f]{8}|run\.lock")
REPORTED_ERROR = 3  # the victim's exit status after a CheckpointError of one line


def values(step: int) -> dict[str, np.ndarray]:
    """The state that every checkpoint of `step` must hold: about 500 kB."""
    rng = np.random.default_rng(step)
    return {
        "kernel": rng.normal(3.0, 2.0, (400, 300)).astype(np.float32),
        "bias": rng.normal(-1.0, 1.0, (300,)),
        "step": np.array(step, np.int64),
    }


def make_state(step: int) -> dict[str, tf.Variable]:
    """Variables with the values of `step`."""
    return {name: tf.Variable(value) for name, value in values(step).items()}


def in_child(body: Callable[[int], int]) -> tuple[int, int]:
    """Forks a process that runs `body(descriptor)`; gives its number and a pipe from it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    status = 99
    try:
        os.close(reader)
        status = body(writer)
    except BaseException as error:
        os.write(2, f"victim: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def finish(pid: int, reader: int) -> tuple[str, int]:
    """What a child wrote, and its exit status (minus the signal that killed it)."""
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    return text, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def start_again(directory: Path, at_least: int) -> str | None:
    """Starts a run after a fault, as a trainer does; says what was lost, if anything."""

    def body(writer: int) -> int:
        with RunLock(directory):
            checkpoint.clean_orphans(directory)
            strange = [n for n in os.listdir(directory) if not LEFT_BY_A_RUN.fullmatch(n)]
            state = make_state(10**6)
            restored = checkpoint.restore_latest(directory, state)
            step = restored.step if restored else 0
            loss = ""
            if strange:
                loss = f"left behind: {strange}"
            elif restored and restored.skipped:
                loss = f"half a checkpoint: {restored.skipped}"
            elif step < at_least:
                loss = f"step {at_least} was reported as saved, restored was {step}"
            elif step and checkpoint.state_sha256(state) != checkpoint.state_sha256(values(step)):
                loss = f"step {step} restored with other values"
            os.write(writer, loss.encode())
        return 0

    text, status = finish(*in_child(body))
    return text or (None if status == 0 else f"the next start ended with {status}")


def saving_run(directory: Path, asynchronous: bool) -> Callable[[int], int]:
    """A run that saves step after step for ever and reports each save once it is complete."""

    def body(writer: int) -> int:
        with RunLock(directory):
            checkpoint.clean_orphans(directory)
            checkpoints = checkpoint.scan(directory)
            step = checkpoints[-1].step if checkpoints else 0
            os.write(writer, b"ready\n")
            with checkpoint.AsynchronousSaver(directory, keep=2) as saver:
                while True:
                    step += 1
                    state = make_state(step)
                    if asynchronous:
                        saver.save(step, state, {})  # waits for the one before
                        os.write(writer, f"{step - 1}\n".encode())
                    else:
                        checkpoint.save(directory, step, state, {})
                        checkpoint.retain(directory, 2)
                        os.write(writer, f"{step}\n".encode())

    return body


def kills(count: Count, times: int, asynchronous: bool, rng: np.random.Generator) -> None:
    """Kill -9 at random moments of a run that saves all the time, in one directory."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        saved = 0
        for _ in range(times):
            pid, reader = in_child(saving_run(directory, asynchronous))
            select.select([reader], [], [], 60)
            time.sleep(rng.uniform(0.0, 0.25))
            os.kill(pid, signal.SIGKILL)
            text, _ = finish(pid, reader)
            reported = [int(line) for line in text.splitlines(keepends=False) if line.isdigit()]
            saved = max([saved, *reported])
            count.add(start_again(directory, saved))


def damages(count: Count, times: int, rng: np.random.Generator) -> None:
    """Damages a random file of the newest of two checkpoints; the older one must be restored."""

    def trial(directory: Path) -> None:
        path = checkpoint.scan(directory)[-1].path
        name = sorted(os.listdir(path))[rng.integers(3)]
        content = bytearray((path / name).read_bytes())
        kind = rng.integers(3)
        place = int(rng.integers(len(content)))
        content[place] ^= 1 << rng.integers(8)
        if kind == 0:
            (path / name).unlink()
        else:
            (path / name).write_bytes(content if kind == 1 else content[:place])
        if not any(name in problem for problem in checkpoint.verify(path)):
            raise AssertionError(f"{name}: damage of kind {kind} at byte {place} was not named")
        state = make_state(3)
        restored = checkpoint.restore_latest(directory, state)
        if restored is None or restored.step != 1 or name not in restored.skipped[0]:
            raise AssertionError(f"{name}: no walk back: {restored}")
        if checkpoint.state_sha256(state) != checkpoint.state_sha256(values(1)):
            raise AssertionError("step 1 restored with other values")

    def body(writer: int) -> int:
        with tempfile.TemporaryDirectory() as folder:
            good = Path(folder) / "good"
            for step in (1, 2):
                checkpoint.save(good, step, make_state(step), {})
            for number in range(times):
                directory = Path(folder) / str(number)
                shutil.copytree(good, directory)
                loss = ""
                try:
                    trial(directory)
                except Exception as error:
                    loss = repr(error)
                os.write(writer, (loss + "\n").encode())
                shutil.rmtree(directory)
        return 0

    text, status = finish(*in_child(body))
    for line in text.splitlines():
        count.add(line or None)
    if status or count.tried != times:
        count.add(f"ended with {status} after {count.tried} damages")


def save_once(directory: Path, prepare: Callable[[], None]) -> Callable[[int], int]:
    """A run that saves steps 1 and 2, then, told to go on and `prepare`d, step 3, keeping one."""

    def body(writer: int) -> int:
        for step in (1, 2):
            checkpoint.save(directory, step, make_state(step), {})
        state = make_state(3)
        os.write(writer, b"ready\n")
        os.kill(os.getpid(), signal.SIGSTOP)
        prepare()
        try:
            checkpoint.save(directory, 3, state, {})
            checkpoint.retain(directory, 1)
        except checkpoint.CheckpointError as error:
            return REPORTED_ERROR if "\n" not in str(error) else 98
        return 0

    return body


def restore_once(directory: Path) -> Callable[[int], int]:
    """A run that saves steps 1 and 2, then, told to go on, restores the newest it can."""

    def body(writer: int) -> int:
        for step in (1, 2):
            checkpoint.save(directory, step, make_state(step), {})
        state = make_state(3)
        os.write(writer, b"ready\n")
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            restored = checkpoint.restore_latest(directory, state)
        except checkpoint.CheckpointError as error:
            untouched = checkpoint.state_sha256(state) == checkpoint.state_sha256(values(3))
            return REPORTED_ERROR if untouched and "\n" not in str(error) else 98
        step = restored.step if restored else 0
        right = checkpoint.state_sha256(state) == checkpoint.state_sha256(values(step))
        return 0 if right else 97

    return body


def stopped_victim(body: Callable[[int], int]) -> tuple[int, int]:
    """A `save_once` or `restore_once` that waits, stopped, before what the fault is for."""
    pid, reader = in_child(body)
    _, status = os.waitpid(pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        raise RuntimeError(f"the victim ended early: {status}")
    return pid, reader


def judge(directory: Path, status: int, allowed: set[int], safe: int = 2) -> str | None:
    """What one fault has lost, if anything; a save that ended well has made step 3 safe."""
    if status not in allowed:
        return f"the victim ended with {status}"
    return start_again(directory, 3 if status == 0 and safe == 2 else safe)


def full_by_limit(count: Count, times: int, rng: np.random.Generator) -> None:
    """Lets no file grow beyond a random size (RLIMIT_FSIZE)."""
    for _ in range(times):
        limit = int(rng.integers(0, 520_000))

        def prepare(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        with tempfile.TemporaryDirectory() as folder:
            pid, reader = stopped_victim(save_once(Path(folder), prepare))
            os.kill(pid, signal.SIGCONT)
            _, status = finish(pid, reader)
            left = [n for n in os.listdir(folder) if n.startswith(".")]
            loss = judge(Path(folder), status, {0, REPORTED_ERROR})
            count.add(loss or (f"left behind at once: {left}" if left else None))


def full_by_tmpfs(count: Count, times: int, rng: np.random.Generator) -> None:
    """Saves into a file system with random room beyond two checkpoints. Needs root."""
    for _ in range(times):
        room = 1_030_000 + int(rng.integers(0, 520_000))
        with tempfile.TemporaryDirectory() as folder:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", folder]
            subprocess.run(mount, check=True)
            try:
                pid, reader = stopped_victim(save_once(Path(folder), lambda: None))
                os.kill(pid, signal.SIGCONT)
                _, status = finish(pid, reader)
                count.add(judge(Path(folder), status, {0, REPORTED_ERROR}))
            finally:
                subprocess.run(["umount", folder], check=True)


def at_each_call(
    count: Count,
    call: str,
    fault: str,
    allowed: set[int],
    *,
    stride: int = 1,
    restoring: bool = False,
) -> None:
    """Injects a fault into the k-th `call` of a save and retention, or a restore, for every k.

    With a stride, for every so manieth k.
    """
    for k in itertools.count(1, stride):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder)
            body = restore_once(run) if restoring else save_once(run, lambda: None)
            pid, reader = stopped_victim(body)
            inject = f"inject={call}:{fault}:when={k}"
            tracer = ["strace", "-f", "-qq", "-e", f"trace={call}", "-e", inject, "-p", str(pid)]
            with subprocess.Popen(tracer, stderr=subprocess.PIPE, text=True) as strace:
                assert strace.stderr is not None
                while not _is_traced(pid):
                    time.sleep(0.002)
                os.kill(pid, signal.SIGCONT)
                _, status = finish(pid, reader)
                reached = "(INJECTED)" in strace.stderr.read() or status == -signal.SIGKILL
            if not reached:
                return
            count.add(judge(run, status, allowed, safe=1 if restoring else 2))


def _is_traced(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return "TracerPid:\t0\n" not in status


def system_calls(stride: int = 1) -> list[Count]:
    """Kills and full disks at every (with a stride, some) system call of a save; needs strace."""
    counts = []
    for call in KILLED_CALLS:
        counts.append(Count(f"kill at each {call}"))
        at_each_call(counts[-1], call, "signal=SIGKILL", {0, -signal.SIGKILL}, stride=stride)
        progress(counts[-1])
    for call in FULL_CALLS:
        counts.append(Count(f"ENOSPC at each {call}"))
        at_each_call(counts[-1], call, "error=ENOSPC", {0, REPORTED_ERROR}, stride=stride)
    for call in ("read", "pread64"):
        counts.append(Count(f"EIO at each {call} of a restore"))
        at_each_call(
            counts[-1], call, "error=EIO", {0, REPORTED_ERROR}, stride=stride, restoring=True
        )
    return counts


def cause(*, kill: int, damage: int, limit: int, tmpfs: bool, seed: int) -> list[Count]:
    """Causes so many faults of each kind."""
    rng = np.random.default_rng(seed)
    counts = [
        Count("kill -9, saving"),
        Count("kill -9, saving in the background"),
        Count("damaged file"),
        Count("disk full, file size limit"),
    ]
    kills(counts[0], kill, False, rng)
    kills(counts[1], kill, True, rng)
    damages(counts[2], damage, rng)
    full_by_limit(counts[3], limit, rng)
    for count in counts:
        progress(count)
    if tmpfs:
        counts.append(Count("disk full, tmpfs"))
        full_by_tmpfs(counts[-1], limit, rng)
    return counts


def main() -> int:
    """Causes the faults asked for and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="half synchronous, half not")
    parser.add_argument("--damages", type=int, default=300)
    parser.add_argument("--limits", type=int, default=100, help="full disks")
    parser.add_argument("--system_calls", action="store_true", help="with strace")
    parser.add_argument("--tmpfs", action="store_true", help="full disks on tmpfs too, as root")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.system_calls and shutil.which("strace") is None:
        parser.error(
            "--system_calls: strace is not installed; install it (Debian: apt install strace)"
        )
    counts = cause(
        kill=options.kills,
        damage=options.damages,
        limit=options.limits,
        tmpfs=options.tmpfs,
        seed=options.seed,
    )
    if options.system_calls:
        counts += system_calls()
    return show(counts)


if __name__ == "__main__":
    sys.exit(main())
