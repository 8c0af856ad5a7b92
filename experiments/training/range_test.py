"""The range test of `python -m experiments.train --find_learning_rate=NAME`."""

from __future__ import annotations

from experiments.entry.summary import summary
from experiments.flags import Settings
from experiments.training.parts import Parts
from loop.analysis.range_test import range_test


def find(settings: Settings, made: Parts) -> None:
    """Runs the test, writes NAME.csv and, with matplotlib, NAME.png, and prints what it suggests.

    Args:
      settings: of the run that would be.
      made: the parts of its trainer.
    """
    name = settings.find_learning_rate
    found = range_test(
        made.step, made.feed, made.state, compile=settings.compile, replicas=made.replicas
    )
    lines = {
        "suggestion": f"--learning_rate={found.suggestion:.3g}",
        "loss turns at": f"{found.turning:.3g}",
        "rates tried": f"{found.learning_rates[0]:.3g} to {found.learning_rates[-1]:.3g}",
        "table": f"{name}.csv",
    }
    if made.replicas.is_chief:
        found.write_csv(f"{name}.csv")
        try:
            found.plot(f"{name}.png")
            lines["plot"] = f"{name}.png"
        except ImportError:
            lines["plot"] = "none: matplotlib is not installed"
        summary(lines, "range test: nothing was trained")
