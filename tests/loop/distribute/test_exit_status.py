"""The exit status that the C library tells, against the one that `wait` gives."""

import os
import subprocess
import sys

import pytest

from loop.distribute import exit_status

_TELLS = f"""
import importlib.util, os, sys, threading
spec = importlib.util.spec_from_file_location("exit_status", {exit_status.__file__!r})
exit_status = importlib.util.module_from_spec(spec)
spec.loader.exec_module(exit_status)
assert exit_status.told_to(int(sys.argv[1]))
"""


@pytest.mark.parametrize(
    "end",
    [
        "pass",
        "sys.exit()",
        "sys.exit(0)",
        "raise SystemExit",
        "try: sys.exit(5)\nexcept SystemExit: pass",
        "sys.exit(2)",
        "sys.exit(256 + 7)",
        "sys.exit('in words')",
        "raise SystemExit(3)",
        "1 / 0",
        "import atexit; atexit.register(os._exit, 4)",
        "threading.Thread(target=lambda: 1 / 0).start()",
        "import ctypes; ctypes.CDLL(None).exit(9)",
    ],
)
def test_an_exit_s_status_is_told(end):
    """Every end that runs the C library's exit tells the byte that the parent gets."""
    status, told = _ended(end)
    expected = b"" if "_exit" in end else bytes([status])
    assert told == expected


@pytest.mark.parametrize(
    "end", ["raise KeyboardInterrupt", "os._exit(0)", "os.abort()", "os.kill(os.getpid(), 15)"]
)
def test_an_end_that_is_no_exit_tells_nothing(end):
    """A signal's end and `os._exit` leave the pipe empty."""
    assert _ended(end)[1] == b""


def _ended(end):
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", f"{_TELLS}\n{end}", str(write)],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read, "rb") as told, process:
        return process.wait(60), told.read()
