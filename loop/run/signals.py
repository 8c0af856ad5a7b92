"""SIGTERM and SIGINT: the first asks the run to stop, the second ends the process at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import warnings
from types import FrameType, TracebackType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_LEAVE = 0  # no signal has this number


def exit_code(signal_number: int) -> int:
    """The documented exit status of a run stopped by a signal: 143 (SIGTERM), 130 (SIGINT)."""
    return 128 + signal_number


class StopSignals:
    """Notes the first SIGTERM or SIGINT; a second one of either ends the process at once.

    Python runs a signal's handler between two byte codes of the main thread. A compiled call or a
    compilation can delay that by many seconds. So a thread reads the numbers that the
    C handler writes the moment a signal arrives (`signal.set_wakeup_fd`), and at the second one it
    leaves through os._exit with 128 + the signal's number: no clean-up runs, and none is needed,
    since a checkpoint is there completely or not at all.

    Enter it after the distribution strategy was made: the constructor of a multi-worker strategy
    may block for minutes, and a noted signal would not stop it. On exit the handlers and
    wake-up descriptor from before are in place again.

    Outside the main thread Python cannot set handlers: entering warns, notes nothing, and leaves
    the signals as they are; `installed` is then False.

    Attributes:
      received: the number of the first signal, or None.
      installed: whether signals are being noted.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.installed = False
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1
        self._reader = -1
        self._writer = -1
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> StopSignals:
        if self.installed:
            raise RuntimeError("StopSignals: already entered")
        self.received = None
        if threading.current_thread() is not threading.main_thread():
            warnings.warn(
                "StopSignals: not in the main thread, which is the only one to set handlers; "
                "SIGTERM and SIGINT act as before",
                RuntimeWarning,
                stacklevel=2,
            )
            return self
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._watcher = threading.Thread(target=self._watch, name="stop signals", daemon=True)
        self._watcher.start()
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        self.installed = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.installed:
            return
        self.installed = False
        for number, handler in self._before.items():
            # A handler that C code had set is None to Python, and cannot be set again from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._wakeup_before)
        # Not by closing: a forked child may still hold the pipe's other end open.
        os.write(self._writer, bytes([_LEAVE]))
        if self._watcher is not None:
            self._watcher.join()
        os.close(self._writer)
        os.close(self._reader)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        """Python's handler: so that the flag is set before the next line of the main thread."""
        if self.received is None:
            self.received = number

    def _watch(self) -> None:
        """Reads signal numbers as they arrive, until told to leave."""
        first = True
        while (number := os.read(self._reader, 1)[0]) != _LEAVE:
            if number not in STOP_SIGNALS:
                continue
            if first:
                first = False
                self._note(number, None)
                continue
            line = f"second stop signal ({signal.Signals(number).name}): exiting at once\n"
            if os.isatty(2):
                # A progress bar leaves its line open, and the cursor hidden until it ends.
                line = f"\n\x1b[?25h{line}"
            with contextlib.suppress(OSError):
                os.write(2, line.encode("ascii"))
            os._exit(exit_code(number))
