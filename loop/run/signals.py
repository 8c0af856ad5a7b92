"""SIGTERM and SIGINT: the first asks the run to stop, the second ends it at once."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

_log = logging.getLogger(__name__)

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
    wake-up descriptor from before are in place again. A process forked in between has them again
    at once: it would write its signals where this one reads them.

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
        self._before = {number: signal.signal(number, self._note) for number in self._numbers()}
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
        self._restore()
        # Not by closing: a forked child may still hold the pipe's other end open.
        os.write(self._writer, bytes([_LEAVE]))
        if self._watcher is not None:
            self._watcher.join()
        os.close(self._writer)
        os.close(self._reader)

    def _restore(self) -> None:
        """Puts the handlers and the wake-up descriptor from before in place again."""
        self.installed = False
        for number, handler in self._before.items():
            # A handler that C code had set is None to Python, and cannot be set again from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._wakeup_before)

    def _numbers(self) -> tuple[signal.Signals, ...]:
        """The signals to note."""
        return STOP_SIGNALS

    def _note(self, number: int, _frame: FrameType | None) -> None:
        """Python's handler: so that the flag is set before the next line of the main thread."""
        if self.received is None:
            self.received = number

    def _watch(self) -> None:
        """Reads signal numbers as they arrive, until told to leave."""
        first = True
        while (number := os.read(self._reader, 1)[0]) != _LEAVE:
            if number not in STOP_SIGNALS:
                self._pass_on(number)
            elif first:
                first = False
                self._arrived(number)
            else:
                self._arrived_again(number)

    def _pass_on(self, number: int) -> None:
        """Another signal: what had the wake-up descriptor before (an event loop) waits for it."""
        if self._wakeup_before != -1:
            with contextlib.suppress(OSError):
                os.write(self._wakeup_before, bytes([number]))

    def _arrived(self, number: int) -> None:
        """The first signal, in the thread that watches."""
        if self.received is None:
            self.received = number

    def _arrived_again(self, number: int) -> None:
        """A further signal, in the thread that watches."""
        line = f"second stop signal ({signal.Signals(number).name}): exiting at once\n"
        if os.isatty(2):
            # A progress bar leaves its line open, and the cursor hidden until it ends.
            line = f"\n\x1b[?25h{line}"
        with contextlib.suppress(OSError):
            os.write(2, line.encode("ascii"))
        os._exit(exit_code(number))


class _OwnSignals(StopSignals):
    """What `train` notes by itself, where its caller notes no signals.

    A signal that the process ignores (a job of a shell's background, `nohup`) stays ignored. In a
    session, a notebook or a Python prompt, a second Ctrl-C raises KeyboardInterrupt as soon as
    Python runs again: the end of the process would take the session's data with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._session = hasattr(sys, "ps1")  # Python's prompt sets it, and so does IPython.
        self._handled = 0
        self._again = False

    def _numbers(self) -> tuple[signal.Signals, ...]:
        # What C code has set (None) could not be put back.
        left = (signal.SIG_IGN, None)
        return tuple(number for number in STOP_SIGNALS if signal.getsignal(number) not in left)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._handled += 1
        # Two signals during one call into C are one to this handler: the other thread has counted.
        if self._session and number == signal.SIGINT and (self._again or self._handled > 1):
            raise KeyboardInterrupt("at the second Ctrl-C: lines of the call under way may be lost")
        super()._note(number, frame)

    def _arrived(self, number: int) -> None:
        super()._arrived(number)
        _log.warning(
            "%s: the run stops after the call under way; a second one ends it at once",
            "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name,
        )

    def _arrived_again(self, number: int) -> None:
        self._again = True
        if not self._session or number != signal.SIGINT:
            super()._arrived_again(number)


@contextlib.contextmanager
def held_back(given: StopSignals | None = None) -> Iterator[StopSignals | None]:
    """Holds SIGTERM and SIGINT back while the `with` block runs; then they act as they would have.

    After the block the handlers from before are in place, and the first signal is given to its own:
    Python's raises KeyboardInterrupt. SIGTERM without a handler raises SystemExit with status 143,
    so that what the caller has opened is closed, as it would not be by a process that just ends.
    An error of the block goes on as the context of these; SystemExit shows none, so it is logged.

    Nothing is held back where the caller has entered a `StopSignals`, given here or not, and
    outside the main thread.

    Args:
      given: the caller's own, which alone notes signals then.

    Yields:
      What notes the signals: the caller's or one for this block; None for nothing.
    """
    if given is not None or threading.current_thread() is not threading.main_thread():
        yield given
        return
    entered = _entered()
    if entered is not None:
        yield entered
        return
    own = _OwnSignals()
    error: BaseException | None = None
    try:
        with own:
            yield own
    except BaseException as raised:
        error = raised
        raise
    finally:
        if own.received is not None and not isinstance(error, (KeyboardInterrupt, SystemExit)):
            _deliver(own.received, error)


def _entered() -> StopSignals | None:
    """The `StopSignals` that notes signals now, if one does."""
    for number in STOP_SIGNALS:
        owner = getattr(signal.getsignal(number), "__self__", None)
        if isinstance(owner, StopSignals):
            return owner
    return None


def _deliver(number: int, error: BaseException | None) -> None:
    """Gives a signal that was held back to whom it belongs."""
    if signal.getsignal(number) is not signal.SIG_DFL:
        signal.raise_signal(number)
        return
    if error is not None:
        _log.error("%s: %s", type(error).__name__, error)
    raise SystemExit(exit_code(number))


def _let_go_in_child() -> None:
    """In a forked process: the C handler would write its signals into the parent's pipe."""
    entered = _entered()
    while entered is not None and entered.installed:
        entered._restore()
        entered = _entered()


os.register_at_fork(after_in_child=_let_go_in_child)
