"""Tables of results on terminals of every width and in pipes."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from experiments.entry.summary import show, summary

_PATH = "/a/directory/" + "with-a-long-name/" * 8 + "[run] 1"


def _console(*, terminal, width):
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)


def _text(console):
    return console.file.getvalue()


@pytest.mark.parametrize("width", [10, 30, 80, 200])
def test_nothing_is_cut_on_a_terminal(width):
    """Title, names and values are whole whatever the width; the table keeps within it."""
    console = _console(terminal=True, width=width)
    title = "dry run: nothing was trained or written"
    summary({"directory": _PATH, "step": "40"}, title, console)
    first, *lines = _text(console).splitlines()
    assert first == title
    assert all(len(line) <= width for line in lines)
    assert "…" not in _text(console)
    values = "".join(line.split("│")[2].strip() for line in lines if line.startswith("│"))
    assert values.replace(" ", "") == (_PATH + "40").replace(" ", "")


def test_a_pipe_has_a_line_for_each_row():
    """A path stands on one line, to be found; its brackets are no markup."""
    console = _console(terminal=False, width=80)
    summary({"step": "40", "directory": _PATH}, "done", console)
    lines = _text(console).splitlines()
    assert lines[0] == "done"
    assert sum(_PATH in line for line in lines) == 1
    assert len(lines) == 5


def test_any_table_is_as_wide_as_it_needs_in_a_pipe():
    """Twenty columns of headers do not make each other shorter."""
    table = Table()
    names = [f"column_{number}" for number in range(20)]
    for name in names:
        table.add_column(name)
    console = _console(terminal=False, width=80)
    show(table, "title", console)
    assert all(name in _text(console) for name in names)
