"""Standard output and error: what only shows does not end a run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class Shown:
    """A text stream that drops what it is given once it cannot be written: full, closed, hung up.

    Attributes:
      error: why nothing is written any more; None while it is.
    """

    def __init__(self, stream: TextIO) -> None:
        self.error: OSError | None = None
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes, or drops; the number of characters, as of any stream."""
        if self.error is None:
            try:
                return self._stream.write(text)
            except OSError as error:
                self.error = error
        return len(text)

    def flush(self) -> None:
        """Flushes what was written."""
        if self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self.error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def shown() -> Iterator[tuple[Shown | None, Shown | None]]:
    """Standard output and standard error as `Shown` while the block runs; None where one is closed.

    The earlier streams are in place again afterwards, unless they cannot be written: the
    interpreter would try once more at its end, and change the exit status.
    """
    before = sys.stdout, sys.stderr
    now = [None if stream is None else Shown(stream) for stream in before]
    sys.stdout, sys.stderr = now
    try:
        yield now[0], now[1]
    finally:
        for name, old, new in zip(("stdout", "stderr"), before, now, strict=True):
            if new is None:
                continue
            new.flush()
            if new.error is None and getattr(sys, name) is new:
                setattr(sys, name, old)
