"""Durable files: hash, fsync, reading without following links; what can go wrong, in one line."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

_NODE_NAMES = re.compile(r"\{\{.*?\}\} ?| ?\[Op:\w+\]")
_BLOCK = 2**20


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, read, found or removed."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is not what was written.

    Attributes:
      path: the checkpoint's directory.
      problems: one line for each thing wrong, naming the file.
    """

    def __init__(self, path: Path, problems: list[str]) -> None:
        """Makes the one-line message from the problems."""
        super().__init__(f"checkpoint {path} is damaged: {'; '.join(problems)}")
        self.path = path
        self.problems = problems


class StateMismatchError(CheckpointError):
    """A checkpoint is sound but holds other variables than the state to restore."""


def first_line(error: BaseException) -> str:
    """An error's message in a line, without TensorFlow's node names; its type's name if empty."""
    lines = _NODE_NAMES.sub("", str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def describe(error: BaseException) -> str:
    """An operating system's or TensorFlow's error in one line, with errno's name and the file."""
    if isinstance(error, OSError) and error.errno is not None:
        name = errno.errorcode.get(error.errno, str(error.errno))
        where = f": {error.filename}" if error.filename is not None else ""
        return f"{error.strerror} [{name}]{where}"
    return first_line(error)


@contextmanager
def one_line(doing: str, mend: str) -> Iterator[None]:
    """Turns the operating system's and TensorFlow's errors into one `CheckpointError` line.

    Args:
      doing: what failed, the line's beginning.
      mend: what the user can do, the line's end.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise CheckpointError(f"{doing}: {describe(error)}; {mend}") from error


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
