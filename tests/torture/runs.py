"""Faults of whole training runs: processes killed, stopped and starved of disk at random moments.

    python -m tests.torture.runs --kills=200 --stops=50 --limits=60 --worker_kills=20

Every victim is a process that runs `experiments.train` on digits. After each fault the same command
is given again, until it ends by itself; a fault is survived if the run then has the SHA-256 of
weights, slots, statistics and step of a run that was never cut, every process ended as documented
(no traceback, the right status), and nothing half-written is left. Faults are dealt out in turn to
graph mode, XLA, and two replicas. The exit status is 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from experiments import train
from experiments.entry.run_main import run_main
from experiments.training import result, training_run
from tests.torture.table import Count, progress, show

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = (
    "--model=mlp",
    "--dropout=0.2",
    "--batch_size=32",
    "--steps=360",
    "--checkpoint_every=17",
    "--log_every=50",
    "--steps_per_call=16",
)
MODES = {
    "graph": ("--compile=graph",),
    "xla": ("--compile=xla",),
    "two replicas": ("--compile=graph", "--strategy=mirrored", "--virtual_devices=2"),
}
WORKERS = ("--compile=graph", "--strategy=multi_worker")
SURVIVOR_SECONDS = 30.0
PIPE_BYTES = 2**20
LIMIT_SECONDS = 300.0  # a process that takes longer hangs

assert training_run.run  # the import itself is what is needed


@dataclasses.dataclass
class Ended:
    """How a process ended: its status (minus the signal that killed it), time and output."""

    status: int
    seconds: float
    output: str


@dataclasses.dataclass(frozen=True)
class Truth:
    """An uncut run of a mode: the hash that it ends with, its time, its largest file's bytes."""

    state_sha256: str
    seconds: float
    largest_file: int = 0


def start(arguments: tuple[str, ...], prepare: Callable[[], None] | None) -> tuple[int, int]:
    """Forks a process that trains; gives its number and a pipe of its output.

    A pipe and no file, which a full disk would cut; it holds all that a run says.
    """
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    status: object = 99
    try:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.close(reader)
        if prepare is not None:
            prepare()
        run_main(train.main, ["train", *arguments])
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status if isinstance(status, int) else 98)


def wait(pid: int, seconds: float) -> int | None:
    """The status of a process; None if it still runs after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.002)


def run(
    arguments: tuple[str, ...],
    folder: Path,
    signals: tuple[tuple[float, int], ...] = (),
    prepare: Callable[[], None] | None = None,
) -> Ended:
    """Trains in `folder`/run, sending signals at the given seconds, until the process ends."""
    begin = time.monotonic()
    pid, reader = start((*arguments, f"--directory={folder / 'run'}"), prepare)
    status = None
    for after, number in signals:
        status = wait(pid, max(0.0, begin + after - time.monotonic()))
        if status is not None:
            break
        os.kill(pid, number)
    if status is None:
        status = wait(pid, LIMIT_SECONDS)
    if status is None:
        os.kill(pid, signal.SIGKILL)
        wait(pid, LIMIT_SECONDS)
        status = 97
    seconds = time.monotonic() - begin
    with os.fdopen(reader, errors="replace") as output:
        return Ended(status, seconds, output.read())


@contextlib.contextmanager
def fresh_folder() -> Iterator[Path]:
    """A folder for one series of faults."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def truth(arguments: tuple[str, ...]) -> Truth:
    """Trains without a fault."""
    with fresh_folder() as folder:
        ended = run(arguments, folder)
        if ended.status:
            raise RuntimeError(f"the uncut run ended with {ended.status}: {ended.output[-800:]}")
        largest = max(path.stat().st_size for path in (folder / "run").rglob("*"))
        return Truth(_sha256(folder), ended.seconds, largest)


def _sha256(folder: Path) -> str:
    found = json.loads((folder / "run" / result.RESULT_FILE).read_text())["state_sha256"]
    assert isinstance(found, str)
    return found


def judged(ended: Ended, allowed: tuple[int, ...]) -> str | None:
    """What is wrong with how a process ended."""
    last = ended.output.strip().splitlines()[-1:] or [""]
    if ended.status not in allowed:
        return f"ended with {ended.status}: {last[0][:300]}"
    if "Traceback" in ended.output:
        return f"a traceback: {last[0][:300]}"
    return None


def finished(folder: Path, expected: Truth) -> str | None:
    """What is wrong with a run that has ended by itself."""
    found = _sha256(folder)
    if found != expected.state_sha256:
        return f"another state: {found[:12]}, uncut {expected.state_sha256[:12]}"
    half = [name for name in os.listdir(folder / "run") if name.startswith(".")]
    return f"left behind: {half}" if half else None


def series(
    count: Count,
    times: int,
    arguments: tuple[str, ...],
    expected: Truth,
    fault: Callable[[Path], tuple[Ended, tuple[int, ...]]],
) -> None:
    """Causes `times` faults, in one run after another, each given again until it ends by itself."""
    caused = 0
    while caused < times:
        with fresh_folder() as folder:
            pending, loss, done = 0, None, False
            while not done and loss is None:
                if caused < times:
                    ended, allowed = fault(folder)
                    done = ended.status == 0
                    caused += not done
                    pending += not done
                    loss = judged(ended, (0, *allowed))
                else:
                    ended = run(arguments, folder)
                    loss, done = judged(ended, (0,)), True
            if loss is None:
                loss = finished(folder, expected)
            if loss is not None and not pending:
                caused += 1
            count.add(loss, max(pending, int(loss is not None)))


def kills(
    count: Count,
    times: int,
    arguments: tuple[str, ...],
    expected: Truth,
    rng: np.random.Generator,
) -> None:
    """SIGKILL at a random moment."""

    def fault(folder: Path) -> tuple[Ended, tuple[int, ...]]:
        moment = rng.uniform(0, expected.seconds)
        return run(arguments, folder, ((moment, signal.SIGKILL),)), (-signal.SIGKILL,)

    series(count, times, arguments, expected, fault)


def stops(
    count: Count,
    times: int,
    arguments: tuple[str, ...],
    expected: Truth,
    rng: np.random.Generator,
) -> None:
    """SIGTERM at a random moment; a third of the time a second one soon after.

    Before training begins, SIGTERM has its usual effect; from then on the status is 143.
    """

    def fault(folder: Path) -> tuple[Ended, tuple[int, ...]]:
        moment = rng.uniform(0, expected.seconds)
        signals = [(moment, signal.SIGTERM)]
        if rng.uniform() < 1 / 3:
            signals.append((moment + rng.uniform(0, 0.2), signal.SIGTERM))
        return run(arguments, folder, tuple(signals)), (143, -signal.SIGTERM)

    series(count, times, arguments, expected, fault)


def full_disks(
    count: Count,
    times: int,
    arguments: tuple[str, ...],
    expected: Truth,
    rng: np.random.Generator,
) -> None:
    """No file can grow beyond a random size (RLIMIT_FSIZE): status 2, or 1, in one line."""

    def fault(folder: Path) -> tuple[Ended, tuple[int, ...]]:
        limit = int(rng.choice([rng.integers(0, 30_000), rng.integers(0, expected.largest_file)]))

        def prepare() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        return run(arguments, folder, prepare=prepare), (1, 2)

    series(count, times, arguments, expected, fault)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        bound = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [int(one.getsockname()[1]) for one in bound]


def run_workers(folder: Path, victim: int | None, moment: float) -> str | None:
    """Two workers, one of them killed at a moment; says what is wrong with how they ended."""
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(2)]
    processes = []
    command = (sys.executable, "-m", "experiments.train", *ARGUMENTS, *WORKERS)
    for index in range(2):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        with (folder / f"log{index}").open("w") as log:
            processes.append(
                subprocess.Popen(
                    [*command, f"--directory={folder / 'run'}"],
                    cwd=ROOT,
                    env={**os.environ, "TF_CONFIG": json.dumps(config)},
                    stdout=log,
                    stderr=log,
                )
            )
    try:
        if victim is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                processes[victim].wait(moment)
            processes[victim].kill()
            processes[victim].wait()
            begin = time.monotonic()
            survivor = processes[1 - victim]
            survivor.wait(SURVIVOR_SECONDS)
            waited = time.monotonic() - begin
            text = (folder / f"log{1 - victim}").read_text(errors="replace")
            named = re.search(rf"^error: .*worker {victim} at {addresses[victim]}\b", text, re.M)
            if survivor.returncode and ("Traceback" in text or not named):
                last = (text.strip().splitlines() or [""])[-1][:200]
                return f"no line that names worker {victim} after {waited:.0f} s: {last}"
            return None
        statuses = [process.wait(LIMIT_SECONDS) for process in processes]
        return f"ended with {statuses}" if any(statuses) else None
    except subprocess.TimeoutExpired:
        seen = [(folder / f"log{index}").read_text(errors="replace") for index in range(2)]
        ends = [(text.strip().splitlines() or [""])[-1][:150] for text in seen]
        return f"the survivor did not end; last lines {ends}"
    finally:
        for process in processes:
            process.kill()
            process.wait()


def worker_kills(count: Count, times: int, rng: np.random.Generator) -> None:
    """SIGKILL of one of two workers; the other must end, and the same command go on exactly."""
    with fresh_folder() as folder:
        begin = time.monotonic()
        problem = run_workers(folder, None, 0.0)
        if problem:
            raise RuntimeError(f"two uncut workers: {problem}")
        expected = Truth(_sha256(folder), time.monotonic() - begin)
    for _ in range(times):
        with fresh_folder() as folder:
            moment = rng.uniform(0.3, 1.0) * expected.seconds
            loss = run_workers(folder, int(rng.integers(2)), moment)
            loss = loss or run_workers(folder, None, 0.0)
            count.add(loss or finished(folder, expected))


def cause(
    *, kill: int, stop: int, limit: int, worker_kill: int, modes: Sequence[str], seed: int
) -> list[Count]:
    """Causes so many faults of each kind, dealt out to the modes in turn."""
    rng = np.random.default_rng(seed)
    counts = []
    causes = (
        ("kill -9, training", kill, kills),
        ("SIGTERM, training", stop, stops),
        ("disk full, training", limit, full_disks),
    )
    for place, mode in enumerate(modes):
        arguments = (*ARGUMENTS, *MODES[mode])
        expected = None
        for name, times, cause_of in causes:
            share = len(range(place, times, len(modes)))
            if share:
                expected = expected or truth(arguments)
                counts.append(Count(f"{name}, {mode}"))
                cause_of(counts[-1], share, arguments, expected, rng)
                progress(counts[-1])
    if worker_kill:
        counts.append(Count("kill -9 of one of two workers"))
        worker_kills(counts[-1], worker_kill, rng)
        progress(counts[-1])
    return counts


def main() -> int:
    """Causes the faults asked for and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--stops", type=int, default=50, help="SIGTERMs")
    parser.add_argument("--limits", type=int, default=60, help="full disks")
    parser.add_argument("--worker_kills", type=int, default=20)
    parser.add_argument("--modes", default=",".join(MODES), help="of: " + ", ".join(MODES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts = cause(
        kill=options.kills,
        stop=options.stops,
        limit=options.limits,
        worker_kill=options.worker_kills,
        modes=options.modes.split(","),
        seed=options.seed,
    )
    return show(counts)


if __name__ == "__main__":
    sys.exit(main())
