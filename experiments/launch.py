"""Starts the workers of a multi-worker run on this machine.

    python -m experiments.launch --workers=2 -- python -m experiments.train --strategy=multi_worker
    tapestep-launch --workers=2 -- tapestep-train --strategy=multi_worker

Each worker gets a TF_CONFIG that names them all on loopback; its output is passed through, each
line behind its number. When one fails, the others are ended: by SIGTERM, and by SIGKILL twenty
seconds later. SIGTERM, SIGINT and SIGHUP are handed on to the workers, which have a minute to save
and end; a second one reaches them too and ends them at once. A launcher that is killed takes its
workers along: Linux sends them SIGTERM. Exit status: 0 if all ended with 0, else
that of the first that did not.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments.entry.errors import InputError
from experiments.entry.run_main import run_main

_GRACE_SECONDS = (
    20.0  # more than `loop.distribute.peers.LOST_SECONDS`: a survivor says whom it lost
)
_SAVE_SECONDS = 60.0
_POLL_SECONDS = 0.05
_STOPPED_EARLY = 128 + signal.SIGTERM
_READER = "output of a worker"
# Linux sends a worker SIGTERM when its launcher is gone, killed by SIGKILL too: nobody else would
# end it. The setting outlives `exec`; whoever was too late for it looks once who its parent is.
_WITH_US = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != {launcher}:
        sys.exit(128 + signal.SIGTERM)
for number in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)  # Python ignores both, and `exec` would hand that on.
os.execvp(sys.argv[1], sys.argv[1:])
""".strip()


def main(argv: list[str]) -> int:
    """Starts the workers, waits for them, returns the exit status."""
    workers, command = _parse(argv)
    processes: list[subprocess.Popen[str]] = []
    received: list[float] = []  # when the signals came

    def hand_on(number: int, _frame: Any) -> None:
        received.append(time.monotonic())
        _send(processes, number)

    # Before the first worker is there: it must not outlive a launcher that is told to stop.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, hand_on)
    try:
        for index, config in enumerate(_configurations(workers)):
            processes.append(_started(command, config))
            _reader(index, processes[-1]).start()
            if received:
                return _STOPPED_EARLY
        return _wait(processes, received)
    finally:
        _end(processes)
        for thread in threading.enumerate():
            if thread.name == _READER:
                # A worker's own child may hold its output open.
                thread.join(_GRACE_SECONDS)


def _parse(argv: list[str]) -> tuple[int, list[str]]:
    values: Any = flags.FlagValues()  # type: ignore[no-untyped-call]
    flags.DEFINE_integer("workers", 2, "How many to start.", lower_bound=1, flag_values=values)
    own, command = argv, []
    if "--" in argv:
        at = argv.index("--")
        own, command = argv[:at], argv[at + 1 :]
    try:
        rest = values(own)[1:]
    except flags.Error as error:
        raise InputError(
            "launch",
            expected="--workers=N",
            found=error,
            mend="see the head of experiments/launch.py",
        ) from error
    if rest or not command:
        raise InputError(
            "launch",
            expected="a command behind --",
            found=" ".join(rest) or "none",
            mend="python -m experiments.launch --workers=2 -- python -m experiments.train ...",
        )
    return int(values.workers), command


def _configurations(workers: int) -> list[str]:
    """Each worker's TF_CONFIG."""
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
    return [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
        for index in range(workers)
    ]


def _started(command: Sequence[str], config: str) -> subprocess.Popen[str]:
    # Our scripts are beside the interpreter, which need not be on the path.
    folders = os.environ.get("PATH", os.defpath), os.path.dirname(sys.executable)
    path = os.pathsep.join(folders)
    if shutil.which(command[0], path=path) is None:
        raise InputError(
            "launch",
            expected="a command",
            found=f"{command[0]}, which is no program that can be run",
            mend="check its name",
        )
    return subprocess.Popen(
        [sys.executable, "-S", "-c", _WITH_US.format(launcher=os.getpid()), *command],
        env={**os.environ, "PATH": path, "TF_CONFIG": config},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # A group of its own: an interrupt from the terminal reaches it once, through here.
        start_new_session=True,
    )


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [int(bound.getsockname()[1]) for bound in sockets]


def _reader(index: int, process: subprocess.Popen[str]) -> threading.Thread:
    """A thread that passes a worker's output on."""

    def pass_on() -> None:
        for line in process.stdout or ():
            sys.stdout.write(f"[{index}] {line.rstrip()}\n")
            sys.stdout.flush()

    return threading.Thread(target=pass_on, name=_READER, daemon=True)


def _wait(processes: Sequence[subprocess.Popen[str]], received: Sequence[float]) -> int:
    """The first status that is not 0, as soon as there is one; 0 when all have ended well.

    After a signal that was handed on it waits for all: a worker that has stopped as it was told is
    no reason to hurry the one that saves.
    """
    first = 0
    while True:
        statuses = [process.poll() for process in processes]
        # Of two that ended since the last look, the one that a signal killed was the first: the
        # other has ended because it lost it.
        for index, status in sorted(enumerate(statuses), key=lambda pair: pair[1] or 0):
            if not status or first:
                continue
            first = 128 - status if status < 0 else status
            if None in statuses and not received:
                print(
                    f"worker {index} ended with status {first}: ending the others",
                    file=sys.stderr,
                    flush=True,
                )
                return first
        if None not in statuses:
            return first
        if received and time.monotonic() - received[0] > _SAVE_SECONDS:
            running = [str(index) for index, status in enumerate(statuses) if status is None]
            print(
                f"worker {', '.join(running)} has not ended {_SAVE_SECONDS:g} s after the signal: "
                "ending it",
                file=sys.stderr,
                flush=True,
            )
            return first or _STOPPED_EARLY
        time.sleep(_POLL_SECONDS)


def _send(processes: Sequence[subprocess.Popen[str]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Ends what still runs: asks, and after the grace kills the whole group."""
    _send(processes, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


cli = functools.partial(run_main, main, doc=__doc__)

if __name__ == "__main__":
    cli()
