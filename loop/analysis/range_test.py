"""A range test: which learning rates a step can use, by one short run with rising rates."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import importlib
import math
import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from loop import distribute
from loop.actions.every import Every
from loop.checkpoint.values import assign, copy_to_host
from loop.compiled.compiled_loop import Mode
from loop.errors import NonFiniteError
from loop.feeds import Feed
from loop.feeds.position import HasState
from loop.schedules import Schedule
from loop.step import GradientStep
from loop.trainer import Trainer
from loop.variables import named

_SMOOTHING = 0.9
# A loss this many times the least one has diverged.
_DIVERGED = 4.0
# Both Adam and SGD train well at a tenth of the rate at which the loss starts to rise.
_MARGIN = 10.0

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """What a range test found.

    Attributes:
      learning_rates: of each step that was run.
      losses: of each of these steps, before its update.
      smoothed: their exponential average, corrected for its start.
    """

    learning_rates: Floats
    losses: Floats
    smoothed: Floats

    @property
    def turning(self) -> float:
        """The rate at which the smoothed loss is least."""
        return float(self.learning_rates[int(np.argmin(self.smoothed))])

    @property
    def suggestion(self) -> float:
        """A tenth of the rate at which the loss starts to rise."""
        return self.turning / _MARGIN

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """One line a step under a header."""
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["learning_rate", "loss", "smoothed"])
            writer.writerows(
                zip(
                    self.learning_rates.tolist(),
                    self.losses.tolist(),
                    self.smoothed.tolist(),
                    strict=True,
                )
            )

    def plot(self, path: str | os.PathLike[str]) -> None:
        """The losses over the rates, as an image; the suggestion marked.

        Raises:
          ImportError: without matplotlib.
        """
        # Optional, and without types of its own.
        figures: Any = importlib.import_module("matplotlib.figure")
        figure = figures.Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.learning_rates, self.losses, alpha=0.3, label="loss")
        axes.plot(self.learning_rates, self.smoothed, label="smoothed")
        axes.axvline(self.suggestion, color="gray", label=f"suggestion {self.suggestion:.2g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        axes.legend()
        figure.savefig(path)


@dataclasses.dataclass(frozen=True)
class _Rising(Schedule):
    """From `low` to `high` in `steps` steps, by a factor a step."""

    low: float
    high: float
    steps: int

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """`low * (high / low) ** (step / (steps - 1))`."""
        share = tf.cast(step, tf.float64) / (self.steps - 1)
        return tf.exp(math.log(self.low) + share * math.log(self.high / self.low))


def range_test(
    step: GradientStep,
    feed: Feed,
    state: Mapping[str, Any],
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    compile: Mode | Literal["auto"] = "auto",
    replicas: distribute.Replicas | None = None,
) -> RangeTest:
    """Trains with a rate that rises by a factor a step, until the loss diverges.

    The state is copied first and put back to the bit at the end, whatever happens. All but
    schedule, decay and multipliers is as in training: the batches are those of steps 0, 1, 2, ...

    Source: Smith 2017, arXiv:1506.01186, section 3.3.

    Args:
      step: with an optimizer of `loop.optimizers`, or a Keras one.
      feed: as for `Trainer`.
      state: as for `Trainer`.
      low: the first rate.
      high: the last one.
      steps: at least 10.
      compile: as for `Trainer`.
      replicas: as for `Trainer`.

    Raises:
      ValueError: on rates or steps out of order; for a feed that cannot go back to its start; if
        the loss is not finite from the first step.
    """
    if not 0.0 < low < high < math.inf:
        raise ValueError(f"range_test: expected 0 < low < high, got {low} and {high}")
    if steps < 10:
        raise ValueError(f"range_test: steps must be at least 10, got {steps}")
    if isinstance(feed, HasState):
        raise ValueError(
            f"range_test: {type(feed).__name__} has a place of its own, which the test would move; "
            "use a feed that can be put to any step"
        )
    own = {"step": step} if step.state else {}
    variables = named({**own, **state})
    before = copy_to_host(variables)
    rates: list[float] = []
    losses: list[float] = []

    def record(trainer: Trainer) -> None:
        assert trainer.rows is not None
        rates.append(float(trainer.rows["learning_rate"][-1]))
        losses.append(float(trainer.rows["loss"][-1]))
        smoothed = _smoothed(losses)
        if smoothed[-1] > _DIVERGED * smoothed.min():
            trainer.stop("the loss has diverged")

    try:
        with step.optimizer.scheduled(_Rising(low, high, steps)):
            trainer = Trainer(
                step=step,
                feed=feed,
                state=state,
                compile=compile,
                steps_per_call=1,
                replicas=replicas,
                actions=[Every(1, record)],
            )
            with contextlib.suppress(NonFiniteError):
                trainer.train(until=steps)
    finally:
        assign(variables, before)
    if not losses:
        raise ValueError("range_test: the loss is not finite at the first step; mend the step")
    return RangeTest(np.array(rates), np.array(losses), _smoothed(losses))


def _smoothed(losses: list[float]) -> Floats:
    average, smoothed = 0.0, []
    for number, loss in enumerate(losses, 1):
        average = _SMOOTHING * average + (1.0 - _SMOOTHING) * loss
        smoothed.append(average / (1.0 - _SMOOTHING**number))
    return np.array(smoothed)
