"""Imports TensorFlow without its native banner on stderr.

TensorFlow's libraries write lines about oneDNN and CUDA straight to file descriptor 2 while they
are loaded and when devices are first listed. No environment variable keeps them off: they come
before TensorFlow sets its log level. An error of ours is to be one line, and so is a program that
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

    Where the block raises, what was held back is passed on. Where the process dies in it (a library
    for another CPU), Python's fault handler says so on the true stderr. A TF_CPP_MIN_LOG_LEVEL in
    the environment is the user's wish for TensorFlow's messages: nothing is held back then.

    Args:
      show: hold nothing back.
    """
    if show or LEVEL in os.environ:
        yield
        return
    os.environ[LEVEL] = "2"
    sys.stderr.flush()
    true_stderr = os.dup(2)
    with tempfile.TemporaryFile() as held, os.fdopen(true_stderr, "wb") as stderr:
        was_enabled = faulthandler.is_enabled()
        faulthandler.enable(stderr)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            stderr.write(held.read())
            raise
        finally:
            sys.stderr.flush()
            stderr.flush()
            os.dup2(stderr.fileno(), 2)
            faulthandler.disable()
            if was_enabled:
                faulthandler.enable()
