"""A process that watches connections to other workers, and kills its parent if one is lost.

    python peer_watch.py PID ALIVE SECONDS NAME FD=WORKER ...

ALIVE is the read end of a pipe whose other end the parent, PID, holds: the parent's end ends this
process. Each FD is a connection. One that closes without `DONE` means that its WORKER was lost: the
parent then has SECONDS to end by itself. Only Python's standard library is imported here.
"""

from __future__ import annotations

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


def main(arguments: list[str]) -> None:
    """Watches until the parent ends, or ends it; see the module."""
    parent, alive, seconds, name = (
        int(arguments[0]),
        int(arguments[1]),
        float(arguments[2]),
        arguments[3],
    )
    workers = dict(argument.split("=", 1) for argument in arguments[4:])
    watched = {int(descriptor): worker for descriptor, worker in workers.items()}
    while True:
        ready, _, _ = select.select([alive, *watched], [], [])
        if alive in ready:
            return
        for descriptor in ready:
            worker = watched.pop(descriptor)
            if _is_done(descriptor):
                continue
            ended, _, _ = select.select([alive], [], [], seconds)
            if ended or os.getppid() != parent:
                return
            print(
                f"error: {name} lost {worker} and had not ended {seconds:g} s later; start all of "
                "them again: the run goes on from its last checkpoint",
                file=sys.stderr,
                flush=True,
            )
            os.kill(parent, signal.SIGKILL)
            return


if __name__ == "__main__":
    main(sys.argv[1:])
