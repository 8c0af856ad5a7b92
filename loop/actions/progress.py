"""Progress for a person: a bar on a terminal, plain lines elsewhere, a table at the end."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich import console as rich_console
from rich import progress as rich_progress
from rich.table import Table

if TYPE_CHECKING:
    from loop.trainer import Trainer


class Progress:
    """Shows how a run goes, as an action (`Every(100, progress, at_end=True)`) inside `with`.

    Args:
      until: the last step.
      console: where to; stderr by default, since stdout belongs to results.
    """

    def __init__(self, until: int, console: rich_console.Console | None = None) -> None:
        self._until = until
        self._console = console or rich_console.Console(stderr=True)
        self._bar: rich_progress.Progress | None = None
        self._task: rich_progress.TaskID | None = None

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._bar = rich_progress.Progress(
                rich_progress.TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                rich_progress.BarColumn(),
                rich_progress.TextColumn("{task.description}"),
                rich_progress.TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("compiling", total=self._until)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, trainer: Trainer) -> None:
        """Shows the last finished step."""
        if trainer.rows is None:
            return
        *_, row = trainer.rows
        shown = [
            f"{label} {row[name]:.4g}"
            for label, name in (("loss", "loss"), ("lr", "learning_rate"))
            if name in row
        ]
        shown.append(f"{trainer.meter.examples_per_second:,.0f} examples/s")
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=row["step"], description="  ".join(shown))
            return
        left = (self._until - row["step"]) * trainer.meter.seconds_per_step
        self._console.print(
            f"step {row['step']:.0f}/{self._until}  {'  '.join(shown)}  {left:.0f} s left",
            highlight=False,
            soft_wrap=True,
        )


def summary(rows: dict[str, str], title: str) -> Table:
    """A two-column table of results for the end of a run."""
    table = Table(title=title, show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    return table
