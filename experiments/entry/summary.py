"""Tables of results for a person, on a terminal of any width and in a pipe."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Nobody's terminal ends a line of a pipe or a file.
_UNLIMITED = 100_000


def show(table: Table, title: str, console: Console | None = None) -> None:
    """Prints a table under its title.

    On a terminal the table fits its width; elsewhere it is as wide as it needs to be, so that a
    path stands on one line.

    Args:
      table: without a title of its own: rich cuts one at the width of the table.
      title: stands above it.
      console: where to; stdout by default.
    """
    console = console or Console()
    if not console.is_terminal:
        console.width = _UNLIMITED
    console.print(Text(title), soft_wrap=True)
    console.print(table)


def summary(rows: Mapping[str, str], title: str, console: Console | None = None) -> None:
    """Prints a two-column table of results, name -> text, as `show` does."""
    table = Table(show_header=False)
    for _ in range(2):
        table.add_column(overflow="fold")  # Rich cuts a long word, such as a path, otherwise.
    for name, value in rows.items():
        table.add_row(Text(name), Text(value))  # Brackets in a path are no markup.
    show(table, title, console)
