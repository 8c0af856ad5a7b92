"""Fetches files whose SHA-256 is known: resumable, verified, renamed into place when whole."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from experiments.entry.errors import InputError

_CHUNK = 1 << 18
_HEADERS = {"User-Agent": "tapestep", "Accept-Encoding": "identity"}


@dataclasses.dataclass(frozen=True)
class Source:
    """A file on the network.

    Attributes:
      url: http or https.
      sha256: of its content, hexadecimal.
      size: in bytes; no more is ever written.
    """

    url: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rsplit("/", 1)[-1]


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a fetch puts up with the network.

    Attributes:
      timeout: seconds without a byte.
      attempts: tries in a row that bring no byte further than any before.
      wait: seconds between tries.
    """

    timeout: float = 30.0
    attempts: int = 4
    wait: float = 2.0


class _RetryError(Exception):
    """The connection failed; another try may go on from where it stopped."""


def fetch(
    source: Source,
    path: str,
    *,
    patience: Patience | None = None,
    report: Callable[[str], None] | None = None,
) -> None:
    """Fetches a file, going on from `path`.part if there is one.

    Args:
      source: what to fetch.
      path: where it goes; there is no file there before it is whole and verified.
      patience: how long to try.
      report: takes a line about what is done; None to say nothing.

    Raises:
      InputError: if the file cannot be fetched, is another one, or cannot be written.
    """
    if os.path.exists(path):
        return
    part = f"{path}.part"
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        # A link planted in the folder must not lead the bytes elsewhere.
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unwritable(part, error) from error
    try:
        if not _lock(descriptor, part):
            return
        if report:
            report(f"fetching {source.url} ({source.size} bytes)")
        _fill(source, descriptor, part, patience or Patience())
        _put(descriptor, part, path)
    finally:
        os.close(descriptor)


def _unwritable(path: str, error: OSError) -> InputError:
    return InputError(
        path,
        expected="a place to write the download to",
        found=error.strerror or error,
        mend="check the folder's permissions and the free space, then run the same command again",
    )


def _lock(descriptor: int, part: str) -> bool:
    """Locks the partial file; False if another process has finished it meanwhile."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(
            part,
            expected="no other process fetching this file",
            found="one",
            mend="wait for it to end",
        ) from error
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(part))
    except FileNotFoundError:
        return False


def _fill(source: Source, descriptor: int, part: str, patience: Patience) -> None:
    """Brings the partial file to the whole, verified content."""
    left = patience.attempts
    furthest = os.fstat(descriptor).st_size
    resumed = furthest > 0
    while True:
        before = os.fstat(descriptor).st_size
        if before == source.size:
            found = _sha256(descriptor)
            if found == source.sha256:
                return
            os.ftruncate(descriptor, 0)
            if not resumed:
                os.unlink(part)
                raise _wrong(source, f"SHA-256 {found}")
            # The part was an older run's and may have been of another file: once more from 0.
            resumed, furthest = False, 0
            continue
        if before > source.size:
            os.ftruncate(descriptor, 0)
            furthest = 0
            continue
        try:
            _receive(source, descriptor, part, patience.timeout)
        except _RetryError as error:
            size = os.fstat(descriptor).st_size
            # More than ever before: a server that always stops at the same byte is no progress.
            left = patience.attempts if size > furthest else left - 1
            furthest = max(furthest, size)
            if left <= 0:
                raise InputError(
                    source.url,
                    expected=f"{source.size} bytes",
                    found=f"{size}, then: {error}",
                    mend="check the network and run the same command again; it goes on from there",
                ) from error
            time.sleep(patience.wait)


def _wrong(source: Source, found: str) -> InputError:
    return InputError(
        source.url,
        expected=f"{source.size} bytes with SHA-256 {source.sha256}",
        found=found,
        mend="the server sends another file: get it elsewhere and put it into --data_dir",
    )


def _receive(source: Source, descriptor: int, part: str, timeout: float) -> None:
    """One request, appended to the partial file."""
    start = os.fstat(descriptor).st_size
    headers = {**_HEADERS, **({"Range": f"bytes={start}-"} if start else {})}
    request = urllib.request.Request(source.url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            ranged = f"{response.headers.get('Content-Range')}".startswith(f"bytes {start}-")
            if not (response.status == 206 and ranged):
                # The server ignores ranges and sends everything.
                start = 0
                _write(descriptor, part, None)
            if response.status == 206 and not ranged:
                raise _RetryError("a range that was not asked for")
            os.lseek(descriptor, start, os.SEEK_SET)
            while chunk := response.read(_CHUNK):
                start += len(chunk)
                if start > source.size:
                    _write(descriptor, part, None)
                    raise _wrong(source, "more bytes")
                _write(descriptor, part, chunk)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            _write(descriptor, part, None)
        elif error.code < 500:
            raise InputError(
                source.url,
                expected="the file",
                found=f"HTTP status {error.code}",
                mend="get it elsewhere and put it into --data_dir",
            ) from error
        raise _RetryError(f"HTTP status {error.code}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _RetryError(f"{type(error).__name__}: {error}") from error
    if start < source.size:
        raise _RetryError("the connection ended")


def _write(descriptor: int, part: str, chunk: bytes | None) -> None:
    """Writes the chunk, or empties the file for None; a full disk is not the network's fault."""
    try:
        if chunk is None:
            os.ftruncate(descriptor, 0)
            return
        view = memoryview(chunk)
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        raise _unwritable(part, error) from error


def _sha256(descriptor: int) -> str:
    digest = hashlib.sha256()
    os.lseek(descriptor, 0, os.SEEK_SET)
    while chunk := os.read(descriptor, _CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _put(descriptor: int, part: str, path: str) -> None:
    """Renames the whole file into place, on disk before its name is."""
    try:
        os.fsync(descriptor)
        os.replace(part, path)
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise _unwritable(path, error) from error
