"""One run a directory: a lock that the operating system drops when its process dies."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

FILE_NAME = "run.lock"

_PATIENCE_SECONDS = 1.0  # a holder writes its number microseconds after it took the lock
_RETRY_SECONDS = 0.02


class RunLockError(RuntimeError):
    """A run's directory cannot be locked, or another run holds it.

    Attributes:
      pid: the holder's process number, if it is known.
    """

    def __init__(self, message: str, pid: int | None = None) -> None:
        """Keeps the holder's number beside the message."""
        super().__init__(message)
        self.pid = pid


class RunLock:
    """Holds a run's directory for this process, as a context manager.

    The lock is flock(2) on `<directory>/run.lock`, so it is free as soon as its process has ended,
    however it ended; the file itself stays. It holds the process number and host for the message
    that a second run prints. A child made by fork without exec shares the lock until it ends too.
    An object that is collected gives the lock back: nobody can do it any more.

    Args:
      directory: the run's directory; made if absent.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._path = Path(os.path.abspath(directory)) / FILE_NAME
        self._give_back: weakref.finalize[Any, RunLock] | None = None

    @property
    def path(self) -> Path:
        """The lock's file."""
        return self._path

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._give_back is not None

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
          RunLockError: if another run holds it (names its process), or the directory cannot be
            written or its file system has no locks.
        """
        if self.held:
            raise RunLockError(f"run lock {self._path}: already held by this object", os.getpid())
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o644)
        except OSError as error:
            raise RunLockError(self._unusable(error)) from error
        try:
            self._lock(descriptor)
            self._sign(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise RunLockError(self._unusable(error)) from error
        except BaseException:
            os.close(descriptor)
            raise
        self._give_back = weakref.finalize(self, _give_back, descriptor)
        # At the end of the process the system drops the lock, after everything else has ended.
        self._give_back.atexit = False

    def release(self) -> None:
        """Gives the lock back; does nothing if it is not held."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()

    def _lock(self, descriptor: int) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                holder = _holder(descriptor)
                pid = holder.get("pid")
                if _is_alive(pid) or time.monotonic() > deadline:
                    raise RunLockError(self._taken(holder), pid) from None
            # Its holder is just writing its number, or the file still has an earlier one's.
            time.sleep(_RETRY_SECONDS)

    @staticmethod
    def _sign(descriptor: int) -> None:
        os.ftruncate(descriptor, 0)
        signature = {"pid": os.getpid(), "host": platform.node()}
        os.pwrite(descriptor, json.dumps(signature).encode("ascii"), 0)

    def _taken(self, holder: dict[str, Any]) -> str:
        pid = holder.get("pid", "unknown")
        if pid == os.getpid() and holder["host"] == platform.node():
            return (
                f"directory {self._path.parent} is in use by another trainer in this process "
                f"{pid}, which was not closed; call its close(), make it in a `with` block, or "
                "choose another directory"
            )
        where = f" on {holder['host']}" if "host" in holder else ""
        return (
            f"directory {self._path.parent} is in use by another run, process {pid}{where}; wait "
            "for it, stop it, or choose another directory"
        )

    def _unusable(self, error: OSError) -> str:
        name = errno.errorcode.get(error.errno or 0, "?")
        for place in (self._path.parent, *self._path.parent.parents):
            if place.exists() and not place.is_dir():
                return (
                    f"run lock {self._path} cannot be taken: expected {place} to be a directory, "
                    f"found a file [{name}]; choose another directory"
                )
        return (
            f"run lock {self._path} cannot be taken: {error.strerror} [{name}]; choose a directory "
            "that can be written, on a file system with locks"
        )

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def _give_back(descriptor: int) -> None:
    # The file stays: unlinking it would let two runs lock two files of one name.
    os.ftruncate(descriptor, 0)
    os.close(descriptor)


def _holder(descriptor: int) -> dict[str, Any]:
    """What the holder wrote; empty while it has not."""
    try:
        content = json.loads(os.pread(descriptor, 4096, 0))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict) or not isinstance(content.get("pid"), int):
        return {}
    return {"pid": content["pid"], "host": str(content.get("host", "?"))}


def _is_alive(pid: int | None) -> bool:
    if pid is None or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
