"""A process that watches connections to other workers, and kills its parent if one is lost.

    python peer_watch.py PID ALIVE SECONDS NAME FD,FD,... FD=WORKER ...

ALIVE is the read end of a pipe. The parent, PID, holds the write end, so this process ends when the
parent ends. If the parent has written its exit status, 0, this process sends `DONE` for it on the
connections FD,FD,... that the other workers watch. Each FD of a WORKER is a connection; if it
closes without `DONE`, that worker was lost, and the parent has SECONDS to end by itself. Only
Python's standard library is imported here.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys

DONE = b"done\n"


def _is_done(descriptor: int) -> bool:
    """Whether the other end said that it is done, rather than nothing."""
    said = b""
    try:
        while more := os.read(descriptor, len(DONE) - len(said)):
            said += more
    except OSError:
        return False
    return said == DONE


def _leave(alive: int, tell: list[int]) -> None:
    """Says that the parent is done if that is how it ended."""
    if os.read(alive, 1) == b"\0":
        for descriptor in tell:
            with contextlib.suppress(OSError):
                os.write(descriptor, DONE)


def main(arguments: list[str]) -> None:
    """Watches until the parent has ended, or kills it; see the module."""
    parent, alive, seconds = int(arguments[0]), int(arguments[1]), float(arguments[2])
    name = arguments[3]
    tell = [int(descriptor) for descriptor in arguments[4].split(",")]
    workers = dict(argument.split("=", 1) for argument in arguments[5:])
    watched = {int(descriptor): worker for descriptor, worker in workers.items()}
    while True:
        ready, _, _ = select.select([alive, *watched], [], [])
        if alive in ready:
            return _leave(alive, tell)
        for descriptor in ready:
            worker = watched.pop(descriptor)
            if _is_done(descriptor):
                continue
            ended, _, _ = select.select([alive], [], [], seconds)
            if ended or os.getppid() != parent:
                return _leave(alive, tell)
            print(
                f"error: {name} lost {worker} and had not ended {seconds:g} s later; start all of "
                "them again: the run goes on from its last checkpoint",
                file=sys.stderr,
                flush=True,
            )
            os.kill(parent, signal.SIGKILL)
            return None


if __name__ == "__main__":
    main(sys.argv[1:])
