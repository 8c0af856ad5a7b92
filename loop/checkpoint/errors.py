"""What can go wrong with a checkpoint, each as one line that names the file."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

_NODE_NAMES = re.compile(r"\{\{.*?\}\} ?| ?\[Op:\w+\]")


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
