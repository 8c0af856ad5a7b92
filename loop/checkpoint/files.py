"""Durable files: hash, fsync, and reading without following symbolic links."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

_BLOCK = 2**20


class NotAPlainFileError(ValueError):
    """A symbolic link, a device or a directory where a plain file was expected."""


def open_plain(path: Path) -> int:
    """Opens a regular file for reading and gives its descriptor; never follows a symbolic link.

    Raises:
      NotAPlainFileError: if the last part of the path is no regular file.
      OSError: as os.open does.
    """
    try:
        # O_NONBLOCK: opening a FIFO planted here must not hang.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotAPlainFileError(f"{path.name}: a symbolic link: refused") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotAPlainFileError(f"{path.name}: not a regular file: refused")
    return descriptor


def read_plain(path: Path, at_most: int) -> bytes:
    """The first `at_most` bytes of a regular file."""
    with os.fdopen(open_plain(path), "rb") as file:
        return file.read(at_most)


def size_and_sha256(path: Path) -> tuple[int, str]:
    """A regular file's size in bytes and SHA-256, read in blocks."""
    digest = hashlib.sha256()
    size = 0
    block = bytearray(_BLOCK)
    view = memoryview(block)
    with os.fdopen(open_plain(path), "rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(view[:count])
            size += count
    return size, digest.hexdigest()


def write_durably(path: Path, content: bytes) -> None:
    """Writes a new file and forces it to the disk.

    Raises:
      OSError: if it exists, or as write and fsync do (a full disk, a read-only directory).
    """
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def fsync_path(path: Path) -> None:
    """Forces a written file or a changed directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
