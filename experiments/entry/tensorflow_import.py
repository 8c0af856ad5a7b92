"""Imports TensorFlow without its native banner on stderr.

TensorFlow's libraries write lines about oneDNN and CUDA straight to file descriptor 2 while they
are loaded and when devices are first listed. No environment variable keeps them off: most come
whatever TensorFlow's log level is. An error of ours is to be one line, and so is a program that
has nothing to say.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import tempfile
from collections.abc import Iterator

LEVEL = "TF_CPP_MIN_LOG_LEVEL"


@contextlib.contextmanager
def without_banner(*, show: bool = False) -> Iterator[None]:
    """Holds back what is written to descriptor 2 in the block; import TensorFlow in it.

    At the block's end devices are listed, which TensorFlow does once and not in silence. Where the
    block raises, what was held back is passed on. Where the process dies in it (a library for
    another CPU), Python's fault handler says so on the true stderr. TF_CPP_MIN_LOG_LEVEL=0 in the
    environment is the user's wish for all of TensorFlow's messages: nothing is held back then. A
    higher level asks for fewer, and is left in force afterwards.

    Args:
      show: hold nothing back.
    """
    # Python has no sys.stderr where descriptor 2 was closed: there is nothing to hold back.
    if show or os.environ.get(LEVEL) == "0" or sys.stderr is None:
        yield
        return
    os.environ.setdefault(LEVEL, "2")
    sys.stderr.flush()
    true_stderr = os.dup(2)
    with tempfile.TemporaryFile() as held, os.fdopen(true_stderr, "wb") as stderr:
        was_enabled = faulthandler.is_enabled()
        faulthandler.enable(stderr)
        os.dup2(held.fileno(), 2)
        try:
            yield
            if "tensorflow" in sys.modules:
                sys.modules["tensorflow"].config.list_physical_devices()
        except Exception:
            held.seek(0)
            stderr.write(held.read())
            raise
        finally:
            sys.stderr.flush()
            stderr.flush()
            os.dup2(stderr.fileno(), 2)
            faulthandler.disable()
            if was_enabled:
                faulthandler.enable(2)  # sys.stderr may be one without a descriptor.
