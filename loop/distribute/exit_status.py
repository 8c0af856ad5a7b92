"""The exit status of this process, told to another one by the C library.

Python cannot tell it: `atexit` runs after an exception too, and the status of a `SystemExit` cannot
be read. glibc's `on_exit(function, argument)` calls `function(status, argument)` in `exit`; with
`fputc` for the function the status is written to a stream, as the one byte that `wait` would give.

Source: on_exit(3) of the Linux manual pages.
"""

from __future__ import annotations

import ctypes
import os

_UNBUFFERED = 2  # _IONBF of stdio.h


def told_to(descriptor: int) -> bool:
    """From now on this process writes its exit status to a descriptor as it ends.

    A process that a signal or `os._exit` ends writes nothing.

    Args:
      descriptor: open for writing, as long as the process lives.

    Returns:
      Whether it will: False where the C library has no `on_exit`.

    Raises:
      OSError: if the C library refuses.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "on_exit"):
        return False
    library.fdopen.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(library.fdopen(descriptor, b"w"))
    if not stream:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "exit status")
    library.setvbuf(stream, None, _UNBUFFERED, ctypes.c_size_t(0))
    write = ctypes.cast(library.fputc, ctypes.c_void_p)
    return bool(library.on_exit(write, stream) == 0)
