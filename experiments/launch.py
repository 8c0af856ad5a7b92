"""Starts the workers of a multi-worker run on this machine.

    python -m experiments.launch --workers=2 -- python -m experiments.train --strategy=multi_worker

Each worker gets a TF_CONFIG that names them all on loopback; its output is passed through, each
line behind its number. When one fails, the others are ended: by SIGTERM, and by SIGKILL ten seconds
later. SIGTERM and SIGINT are handed on to the workers. Exit status: 0 if all ended with 0, else
that of the first that did not.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO, Any

from absl import flags

from experiments.entry import run_main
from experiments.errors import InputError

_GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.05


def main(argv: list[str]) -> int:
    """Starts the workers, waits for them, returns the exit status."""
    workers, command = _parse(argv)
    processes = _start(workers, command)
    readers = [
        threading.Thread(target=_pass_through, args=(index, process.stdout), daemon=True)
        for index, process in enumerate(processes)
    ]
    for reader in readers:
        reader.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: _send(processes, received))
    try:
        status = _wait(processes)
    finally:
        _end(processes)
    for reader in readers:
        reader.join()
    return status


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


def _start(workers: int, command: Sequence[str]) -> list[subprocess.Popen[str]]:
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
    processes: list[subprocess.Popen[str]] = []
    for index in range(workers):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        try:
            process = subprocess.Popen(
                command,
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # A group of its own: an interrupt from the terminal reaches it once, through here.
                start_new_session=True,
            )
        except OSError as error:
            _end(processes)
            raise InputError(
                "launch",
                expected="a command",
                found=f"{command[0]} ({error})",
                mend="check its name",
            ) from error
        processes.append(process)
    return processes


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [int(bound.getsockname()[1]) for bound in sockets]


def _pass_through(index: int, output: IO[str] | None) -> None:
    for line in output or ():
        print(f"[{index}] {line}", end="", flush=True)


def _wait(processes: Sequence[subprocess.Popen[str]]) -> int:
    """The first status that is not 0, as soon as there is one; 0 when all have ended well."""
    while True:
        statuses = [process.poll() for process in processes]
        for index, status in enumerate(statuses):
            if status:
                status = 128 - status if status < 0 else status
                if any(other is None for other in statuses):
                    print(
                        f"worker {index} ended with status {status}: ending the others",
                        file=sys.stderr,
                    )
                return status
        if all(status == 0 for status in statuses):
            return 0
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


if __name__ == "__main__":
    run_main(main)
