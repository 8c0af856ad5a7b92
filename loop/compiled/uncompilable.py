"""What XLA cannot compile, in a line that says which operation and who made it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

import tensorflow as tf

_KERNEL = re.compile(r"on XLA_\w+: (\w+) \(No registered")
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')


class UncompilableError(ValueError):
    """A step that XLA cannot compile.

    Attributes:
      reason: what XLA lacks for it.
    """

    def __init__(self, reason: str, mend: str) -> None:
        super().__init__(f"compile=xla: {reason}; {mend}")
        self.reason = reason


def refuse_strings(tensors: Mapping[str, tf.Tensor]) -> None:
    """Refuses what a step of XLA cannot even be given.

    Raises:
      UncompilableError: names the first tensor of strings.
    """
    for name, tensor in tensors.items():
        if tensor.dtype == tf.string:
            raise UncompilableError(
                f"{name.removeprefix('batch/')!r} holds strings, expected numbers, since XLA has "
                "no strings",
                "leave it out of the feed, encode it, or use compile='graph'",
            )


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """Raises an error of XLA's compilation anew, in a line; others as they are.

    Raises:
      UncompilableError: XLA has no kernel for an operation of what is compiled inside it.
    """
    try:
        yield
    except tf.errors.OpError as error:
        kernel = _KERNEL.search(str(error.message))
        if kernel is None:
            raise
        raise _without_kernel(kernel) from None


def _without_kernel(kernel: re.Match[str]) -> UncompilableError:
    # The last frame is the innermost; TensorFlow leaves its own out.
    after = kernel.string[kernel.end() :]
    frames = _FRAME.findall(after.partition("tf2xla conversion failed")[0])
    file, line, function = frames[-1] if frames else ("", "", "")
    place = f", made at {file}:{line} in {function}" if frames else ""
    return UncompilableError(
        f"XLA has no kernel for {kernel[1]}{place}",
        "use another operation, compile='graph', or 'auto', which falls back to it",
    )
