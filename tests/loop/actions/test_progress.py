"""Progress for a person, on consoles of the test's own."""

import importlib.util
import io
import subprocess
import sys
import types

import numpy as np
import pytest
from rich.console import Console

import loop
from loop.actions.progress import Progress
from loop.rows import Rows
from tests import terminal


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


_LOGGED = """
import logging, sys, types
import numpy as np
logging.basicConfig(format="%(message)s", stream=sys.stderr)
import loop
from loop.actions.progress import Progress
from loop.rows import Rows
meter = loop.Meter()
meter.seconds["train"] = 2.0
meter.count(20, 4_000_000)
table = np.array([[2.4e-5, 0.0012345]])
rows = Rows(1_999_999, ("loss", "learning_rate"), table)
with Progress(9_999_999) as progress:
    logging.warning("first line")
    progress(types.SimpleNamespace(rows=rows, meter=meter))
    logging.warning("second line")
    print("to stderr", file=sys.stderr)
    print("to stdout")
logging.warning("after the bar")
"""


@pytest.mark.parametrize("columns", [80, 200])
def test_log_lines_stand_above_the_bar(columns):
    """A handler made before the bar, prints, and what comes after: each has a line of its own."""
    status, written = terminal.run([sys.executable, "-c", _LOGGED], columns=columns)
    assert status == 0
    *_, first, second, error, output, bar, after, _ = terminal.screen(written, columns)
    assert (first, second) == ("first line", "second line")
    assert (error, output, after) == ("to stderr", "to stdout", "after the bar")
    assert bar.startswith("step 2000000/9999999")
    assert "loss 2.4e-05  lr 0.001234  2,000,000 examples/s" in bar
    assert "…" not in bar


def test_stdout_that_is_a_file_stays_one(tmp_path):
    """The terminal's bar takes nothing of what the program prints into a file."""
    with open(tmp_path / "out", "wb") as out:
        status, written = terminal.run(
            [sys.executable, "-c", _LOGGED], columns=80, stdout=out.fileno()
        )
    assert status == 0
    assert (tmp_path / "out").read_text() == "to stdout\n"
    assert "to stdout" not in written


def test_a_run_without_a_step_leaves_no_bar():
    """What a resumed run that was at its end would show is step 0."""
    text = _shown(True, [])
    assert terminal.screen(text, 200) == ["", ""]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_stream_that_cannot_be_written_ends_nothing(terminal):
    """Every write and flush raises, as those to a full disk or a terminal that is gone."""

    class Full(io.StringIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

        flush = write

    console = Console(file=Full(), force_terminal=terminal, force_interactive=terminal)
    with Progress(40, console) as progress:
        progress(_trainer(10))


def test_plain_lines_are_no_more_than_one_in_so_many_seconds():
    """But for the last step's, which is always shown."""
    out, now = io.StringIO(), [0.0]
    console = Console(file=out, force_terminal=False, width=200)
    with Progress(40, console, seconds=10, clock=lambda: now[0]) as progress:
        for moment, step in ((0, 4), (9, 8), (10, 12), (19, 16), (20.5, 20), (21, 40)):
            now[0] = moment
            progress(_trainer(step))
    shown = [line.split("/")[0] for line in out.getvalue().splitlines()]
    assert shown == ["step 4", "step 12", "step 20", "step 40"]


@pytest.mark.parametrize("installed", [False, True])
def test_a_notebook_has_a_bar_where_it_can_show_one(installed, monkeypatch):
    """Rich's bar needs ipywidgets there; without that package the lines are plain."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: installed if name == "ipywidgets" else find(name, *rest),
    )
    console = Console(file=io.StringIO(), force_jupyter=True, width=200)
    progress = Progress(40, console)
    monkeypatch.setattr("rich.progress.Progress.start", lambda _: None)
    monkeypatch.setattr("rich.progress.Progress.stop", lambda _: None)
    with progress:
        assert (progress._bar is not None) == installed


_TRAINED = """
import numpy as np, tensorflow as tf
import loop
weight = tf.Variable(0.0, name="weight")
def step(batch):
    weight.assign_add(tf.reduce_mean(batch["x"]))
    return {"loss": weight}
feed = loop.feeds.Arrays({"x": np.ones([8], np.float32)}, batch_size=2)
loop.Trainer(step=step, feed=feed, state=weight, compile="graph", progress=True).train(until=40)
"""


def test_a_trainer_shows_its_own_progress():
    """On a terminal a bar, ended at the last step; in a file lines, the last step's among them."""
    status, written = terminal.run([sys.executable, "-c", _TRAINED], columns=100)
    assert status == 0
    (bar,) = [line for line in terminal.screen(written, 100) if line.startswith("step ")]
    assert bar.startswith("step 40/40")
    assert "loss 40" in bar
    done = subprocess.run(
        [sys.executable, "-c", _TRAINED], capture_output=True, text=True, check=True, timeout=120
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("step ")]
    assert lines[-1].startswith("step 40/40  loss 40")
    assert done.stdout == ""
