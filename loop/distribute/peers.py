"""Connections to the other workers of a run, kept in order to notice at once that one is gone.

A collective reports a lost worker only while it runs. Before the first one TensorFlow waits for an
absent worker for minutes or without end, ignores signals, and holds Python's lock. The kernel
closes the connections of a process however it ends, so the other end notices it. No thread of a
process in that state can act, so a small process beside it does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from loop.distribute import exit_status, peer_watch

_log = logging.getLogger(__name__)

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
      made: worker -> the connection that this one made; its other end closes with that worker.
      accepted: worker -> the connection that the other one made, and watches.
    """

    index: int
    addresses: tuple[str, ...]
    made: Mapping[int, socket.socket]
    accepted: Mapping[int, socket.socket]

    def watch(self, *, seconds: float = LOST_SECONDS) -> Watch | None:
        """From now on this process ends too if another worker ends without having finished.

        A worker has finished if its process exits with status 0; it may do so before the others.
        Every other end is a loss: an exception, another status, a signal, `os._exit`, a machine
        that is gone. Most often this worker's next collective then fails and it ends by itself; if
        not, it is killed with a line on stderr. See `loop.distribute.peer_watch`.

        Args:
          seconds: how long this worker has to end by itself.

        Returns:
          What watches, to end it before the process ends; None with one worker.
        """
        if not self.made:
            return None
        for connection in self.made.values():
            connection.setblocking(True)
            _keep_alive(connection)
        read, write = os.pipe()
        made = [connection.fileno() for connection in self.made.values()]
        accepted = [connection.fileno() for connection in self.accepted.values()]
        watched = [
            f"{descriptor}=worker {worker} at {self.addresses[worker]}"
            for descriptor, worker in zip(made, self.made, strict=True)
        ]
        here = f"worker {self.index} of {len(self.addresses)}"
        program = [sys.executable, "-I", "-S", peer_watch.__file__]  # starts in 20 ms
        tell = ",".join(map(str, accepted))
        process = subprocess.Popen(
            [*program, str(os.getpid()), str(read), str(seconds), here, tell, *watched],
            pass_fds=[read, *made, *accepted],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # no terminal's signal reaches it
        )
        process.returncode = 0  # It outlives this process: Python need not warn of it.
        os.close(read)
        if not exit_status.told_to(write):
            _log.warning(
                "%s: this C library has no on_exit, which tells the exit status: to the others the "
                "end of this worker will be a loss, even after it has finished",
                here,
            )
        return Watch(process.pid, (write, *made, *accepted), self)

    def gone(self, *, seconds: float) -> list[int]:
        """The workers whose processes have ended, in order; empty if none does in time.

        Args:
          seconds: how long to wait for the first: what sent an error may be about to end.
        """
        if not self.made:
            return []
        # A connection becomes readable only when the other worker ends, with or without `DONE`.
        ready, _, _ = select.select(list(self.made.values()), [], [], seconds)
        return sorted(worker for worker, connection in self.made.items() if connection in ready)

    def close(self) -> None:
        """Closes all connections without `DONE`: the others then take this worker for lost."""
        for connection in (*self.made.values(), *self.accepted.values()):
            connection.close()


class Watch:
    """The process that watches the other workers for this one.

    Args:
      process: its id.
      descriptors: this process's ends of all that says whether it lives.
      peers: kept with it, since a connection that is collected as garbage is closed.
    """

    def __init__(self, process: int, descriptors: Sequence[int], peers: Peers) -> None:
        self._process = process
        self._descriptors = tuple(descriptors)
        self._peers = peers
        # A forked child would hold the connections open after the end of this process, and report
        # its own exit status in place of this one's.
        os.register_at_fork(after_in_child=self._let_go)

    def end(self) -> None:
        """Ends the watching without `DONE`: the others then take this worker for lost."""
        if not self._descriptors:
            return
        self._let_go()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._process, 0)

    def _let_go(self) -> None:
        """Gives the connections up to the process that also holds them."""
        # Not closed: the C library writes to the descriptor at exit, whatever has its number.
        if self._descriptors:
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in self._descriptors:
                os.dup2(null, descriptor, inheritable=False)
            os.close(null)
        self._descriptors = ()


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):  # of Linux
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
