"""Progress for a person: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from rich import console as rich_console
from rich import progress as rich_progress

from loop.actions.running import Running


class Progress:
    """Shows how a run goes, as an action (`Every(100, progress, at_end=True)`) inside `with`.

    A stream that cannot be written (full, closed) ends nothing: what is for it is lost.

    While the bar is shown, what is written to stderr appears above it, and so do the lines of the
    root logger's handlers that write there.

    In a notebook the bar needs the package ipywidgets; without it there are plain lines.

    Args:
      until: the last step; None where it is not known.
      console: where to; stderr by default, since stdout belongs to results.
      seconds: the least between two plain lines, but for that of the last step.
      clock: seconds since some moment.
    """

    def __init__(
        self,
        until: int | None,
        console: rich_console.Console | None = None,
        *,
        seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._until = math.inf if until is None else until
        self._of = "" if until is None else f"/{until}"
        self._console = console or rich_console.Console(stderr=True)
        self._seconds = seconds
        self._clock = clock
        self._next = -math.inf
        self._bar: rich_progress.Progress | None = None
        self._task: rich_progress.TaskID | None = None
        self._shown = False
        self._stderr = sys.stderr
        self._handlers: list[logging.StreamHandler[TextIO]] = []

    def __enter__(self) -> Progress:
        widgets = self._console.is_jupyter and importlib.util.find_spec("ipywidgets")
        if self._console.is_terminal or widgets:
            self._bar = rich_progress.Progress(
                rich_progress.TextColumn(f"step {{task.completed:.0f}}{self._of}"),
                rich_progress.BarColumn(),
                rich_progress.TextColumn("{task.description}"),
                rich_progress.TimeRemainingColumn(compact=True),
                console=self._console,
                # Rich would send a stdout that is a file to the terminal too.
                redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
            )
            self._task = self._bar.add_task(
                "compiling", total=None if self._until == math.inf else self._until
            )
            self._stderr = sys.stderr
            with contextlib.suppress(OSError):
                self._bar.start()
            # Rich replaces sys.stderr; an earlier handler keeps the stream that it was made with.
            self._handlers = [
                handler
                for handler in logging.getLogger().handlers
                if isinstance(handler, logging.StreamHandler) and handler.stream is self._stderr
            ]
            for handler in self._handlers:
                handler.setStream(sys.stderr)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is None:
            return
        # A run that was at its end already, or refused, has nothing to show.
        self._bar.live.transient = not self._shown
        with contextlib.suppress(OSError):
            self._bar.stop()
        for handler in self._handlers:
            handler.setStream(self._stderr)

    def __call__(self, trainer: Running) -> None:
        """Shows the last finished step."""
        if trainer.rows is None:
            return
        self._shown = True
        *_, row = trainer.rows
        shown = [
            f"{label} {row[name]:.4g}"
            for label, name in (("loss", "loss"), ("lr", "learning_rate"))
            if name in row
        ]
        shown.append(f"{trainer.meter.examples_per_second:,.0f} examples/s")
        if self._bar is not None and self._task is not None:
            with contextlib.suppress(OSError):
                self._bar.update(self._task, completed=row["step"], description="  ".join(shown))
            return
        now = self._clock()
        if now < self._next and row["step"] < self._until:
            return
        self._next = now + self._seconds
        left = (self._until - row["step"]) * trainer.meter.seconds_per_step
        if left < math.inf:
            shown.append(f"{left:.0f} s left")
        with contextlib.suppress(OSError):
            self._console.print(
                f"step {row['step']:.0f}{self._of}  {'  '.join(shown)}",
                highlight=False,
                soft_wrap=True,
            )
