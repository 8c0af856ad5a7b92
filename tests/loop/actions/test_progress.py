"""Progress for a person, on consoles of the test's own."""

import io
import types

import numpy as np
from rich.console import Console

import loop
from loop.actions.progress import Progress, summary
from loop.rows import Rows


def _trainer(step, columns=("loss", "learning_rate"), values=(0.25, 0.01)):
    meter = loop.Meter()
    meter.seconds["train"] = 2.0
    meter.count(step, 10 * step)
    table = np.array([[9.0] * len(columns), list(values)])
    return types.SimpleNamespace(rows=Rows(step - 2, columns, table), meter=meter)


def _shown(terminal, actions):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=200, force_interactive=terminal)
    with Progress(40, console) as progress:
        for trainer in actions:
            progress(trainer)
    return out.getvalue()


def test_plain_lines_where_there_is_no_terminal():
    """Each call is one line with step, loss, rate, speed and the time left, without escapes."""
    text = _shown(False, [_trainer(10), _trainer(20)])
    assert text.splitlines() == [
        "step 10/40  loss 0.25  lr 0.01  50 examples/s  6 s left",
        "step 20/40  loss 0.25  lr 0.01  100 examples/s  2 s left",
    ]


def test_a_bar_on_a_terminal():
    """A terminal gets a bar with the same numbers."""
    text = _shown(True, [_trainer(40)])
    assert "step 40/40" in text
    assert "loss 0.25" in text
    assert "\x1b[" in text


def test_a_step_without_loss_or_rate_and_a_run_without_steps():
    """A step function of any scalars, and a run that was at its end already, are shown too."""
    text = _shown(False, [_trainer(10, ("critic",), (1.0,))])
    assert text == "step 10/40  50 examples/s  6 s left\n"
    assert _shown(False, [types.SimpleNamespace(rows=None, meter=loop.Meter())]) == ""


def test_summary_is_a_table_of_what_it_is_given():
    """Every name and value stands in the table, under its title."""
    out = io.StringIO()
    table = summary({"step": "40", "test accuracy": "0.9831"}, "done")
    Console(file=out, width=60).print(table)
    assert all(text in out.getvalue() for text in ("done", "step", "40", "test accuracy", "0.9831"))
