"""Keeps the checkpoints that evaluated best, besides the last ones."""

from __future__ import annotations

import math
from typing import Literal

from loop.actions.monitor import Evaluations, Monitor
from loop.actions.running import Running


class BestCheckpoints:
    """Saves a checkpoint when it is among the `count` best, and protects these from deletion.

    Given to `Trainer(keep_best=...)`; it acts after every evaluation at a multiple of `every`.

    Args:
      metric: a name in the evaluation's results.
      count: how many, at least 1.
      mode: whether the "min" or the "max" is best.
      every: the trainer's `evaluate_every`.

    Raises:
      ValueError: on a number or mode out of range.
    """

    def __init__(
        self, metric: str, count: int, mode: Literal["min", "max"] = "min", *, every: int
    ) -> None:
        if count < 1:
            raise ValueError(f"BestCheckpoints: count must be at least 1, got {count}")
        self.monitor = Monitor(metric, mode, every)
        self.count = count

    def steps(self, evaluations: Evaluations) -> list[int]:
        """The best steps, best first; of equal values the earlier one. NaN is never among them."""
        sign = 1.0 if self.monitor.mode == "min" else -1.0
        ranked = sorted(
            (sign * value, step)
            for step, value in self.monitor.history(evaluations)
            if not math.isnan(value)
        )
        return [step for _, step in ranked[: self.count]]

    def __call__(self, trainer: Running) -> None:
        """Saves the current step if it is one of the best."""
        if int(trainer.global_step) in self.steps(trainer.evaluations):
            trainer.save()
