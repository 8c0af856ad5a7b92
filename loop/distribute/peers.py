"""Connections to the other workers of a run, kept for one thing: to see at once that one is gone.

A collective tells that a worker was lost only while it runs. Before the first one TensorFlow waits
for an absent worker for minutes or for ever, deaf to signals and holding Python's lock. The kernel
closes the connections of a process however it ends, so whoever holds one knows; and since no thread
of a process in that state can act, a small process beside it does.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping

from loop.distribute import peer_watch

LOST_SECONDS = 15.0
"""How long a process may take to end by itself once another worker is gone.

A collective fails at once or, where TensorFlow first misses heartbeats, after 5 to 11 s.
"""

# A machine that is gone says nothing: after 5 s of silence it is asked three times, 3 s apart; with
# the seconds above that is less than half a minute.
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3}


@dataclasses.dataclass(frozen=True)
class Peers:
    """Two connections with each other worker.

    Attributes:
      index: this worker's.
      addresses: "host:port" of each worker.
      made: worker -> the connection that this one made; the other's end of it closes as it ends.
      accepted: worker -> the connection that the other one made, and watches.
    """

    index: int
    addresses: tuple[str, ...]
    made: Mapping[int, socket.socket]
    accepted: Mapping[int, socket.socket]

    def watch(self, *, seconds: float = LOST_SECONDS) -> None:
        """From now on another worker's end ends this process too, unless that one was done.

        A worker whose interpreter ends says so, and may go before the others. One that was killed,
        or whose machine is gone, has not: most often the survivor's next collective then fails and
        it ends by itself; if not, it is killed with a line on stderr.
        See `loop.distribute.peer_watch`.

        Args:
          seconds: how long the survivor has to end by itself.
        """
        if not self.made:
            return
        for connection in self.made.values():
            connection.setblocking(True)
            _keep_alive(connection)
        read, write = os.pipe()
        descriptors = [connection.fileno() for connection in self.made.values()]
        watched = [
            f"{descriptor}=worker {worker} at {self.addresses[worker]}"
            for descriptor, worker in zip(descriptors, self.made, strict=True)
        ]
        here = f"worker {self.index} of {len(self.addresses)}"
        program = [sys.executable, "-I", "-S", peer_watch.__file__]  # starts in 20 ms
        process = subprocess.Popen(
            [*program, str(os.getpid()), str(read), str(seconds), here, *watched],
            pass_fds=[read, *descriptors],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # no terminal's signal reaches it
        )
        os.close(read)
        atexit.register(self._leave, process, write)

    def gone(self, *, seconds: float) -> list[int]:
        """The workers whose processes have ended, in order; empty if none does in time.

        Args:
          seconds: how long to wait for the first: what sent an error may be about to end.
        """
        if not self.made:
            return []
        # Nothing but the end, said or unsaid, makes one readable.
        ready, _, _ = select.select(list(self.made.values()), [], [], seconds)
        return sorted(worker for worker, connection in self.made.items() if connection in ready)

    def close(self) -> None:
        """Closes all connections, unsaid: to the others this worker is gone."""
        for connection in (*self.made.values(), *self.accepted.values()):
            connection.close()

    def _leave(self, process: subprocess.Popen[bytes], write: int) -> None:
        """Says that this worker is done, and ends the watching process."""
        for connection in self.accepted.values():
            with contextlib.suppress(OSError):
                connection.sendall(peer_watch.DONE)
        os.close(write)
        process.wait()


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):  # of Linux
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
