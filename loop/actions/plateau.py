"""Reduces the learning rate when a metric has stopped improving."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

from loop.actions.monitor import Evaluations, Monitor
from loop.actions.running import Running


class ReduceOnPlateau:
    """Multiplies a scale by `factor` after `patience` evaluations without a new best, as Keras's.

    An action, beside `schedules.with_scale(schedule, scale)` and the scale in the trainer's state:
    `Every(n, ReduceOnPlateau("loss", scale, patience=3, every=n))` with `evaluate_every=n`.

    Args:
      metric: a name in the evaluation's results.
      scale: floating scalar, 1 at the start; made within the replicas' scope.
      patience: evaluations, at least 1.
      factor: in (0, 1).
      mode: whether the "min" or the "max" is best.
      every: see `Monitor`.
      min_delta: see `Monitor`; Keras's default.
      cooldown: evaluations after a reduction that do not count.
      smallest: the scale is not reduced below this.

    Raises:
      ValueError: on a number or mode out of range.
    """

    def __init__(
        self,
        metric: str,
        scale: tf.Variable,
        *,
        patience: int = 10,
        factor: float = 0.1,
        mode: Literal["min", "max"] = "min",
        every: int = 1,
        min_delta: float = 1e-4,
        cooldown: int = 0,
        smallest: float = 0.0,
    ) -> None:
        if patience < 1 or cooldown < 0:
            raise ValueError(
                "ReduceOnPlateau: patience must be at least 1 and cooldown at least 0, got "
                f"{patience} and {cooldown}"
            )
        if not 0.0 < factor < 1.0:
            raise ValueError(f"ReduceOnPlateau: factor must be in (0, 1), got {factor}")
        if not 0.0 <= smallest < 1.0:
            raise ValueError(f"ReduceOnPlateau: smallest must be in [0, 1), got {smallest}")
        self.monitor = Monitor(metric, mode, every, min_delta)
        self._scale = scale
        self._patience = patience
        self._factor = factor
        self._cooldown = cooldown
        self._smallest = smallest

    def reductions(self, evaluations: Evaluations) -> int:
        """How often the scale is to have been reduced after these evaluations."""
        best, waited, cooling, done = self.monitor.worst, 0, 0, 0
        for _, value in self.monitor.history(evaluations):
            if cooling:
                cooling -= 1
                waited = 0
            if self.monitor.is_better(value, best):
                best, waited = value, 0
            elif not cooling:
                waited += 1
                if waited >= self._patience:
                    done, waited, cooling = done + 1, 0, self._cooldown
        return done

    def __call__(self, trainer: Running) -> None:
        """Sets the scale; the chief decides for all workers."""
        own = self.reductions(trainer.evaluations) if trainer.replicas.is_chief else 0
        done = int(trainer.replicas.gather([own])[0, 0])
        self._scale.assign(max(self._factor**done, self._smallest))
