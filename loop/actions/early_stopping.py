"""Ends training when a metric has stopped improving."""

from __future__ import annotations

from typing import Literal

from loop.actions.monitor import Evaluations, Monitor
from loop.actions.running import Running


class EarlyStopping:
    """Stops after `patience` evaluations in a row without a new best, as Keras's EarlyStopping.

    An action beside `evaluate_every=n`: `Every(n, EarlyStopping("loss", 3, every=n),
    at_start=True)`, so that a run that it ended does not go on when it is resumed.

    Args:
      metric: a name in the evaluation's results.
      patience: evaluations, at least 1.
      mode: whether the "min" or the "max" is best.
      every: see `Monitor`.
      min_delta: see `Monitor`.

    Raises:
      ValueError: on a number or mode out of range.
    """

    def __init__(
        self,
        metric: str,
        patience: int,
        mode: Literal["min", "max"] = "min",
        *,
        every: int = 1,
        min_delta: float = 0.0,
    ) -> None:
        if patience < 1:
            raise ValueError(f"EarlyStopping: patience must be at least 1, got {patience}")
        self.monitor = Monitor(metric, mode, every, min_delta)
        self.patience = patience

    def reason(self, evaluations: Evaluations) -> str | None:
        """Why training is over after these evaluations; None if it is not."""
        best, best_step, waited = self.monitor.worst, None, 0
        for step, value in self.monitor.history(evaluations):
            waited += 1
            if self.monitor.is_better(value, best):
                best, best_step, waited = value, step, 0
        if waited < self.patience:
            return None
        where = "" if best_step is None else f" of step {best_step}"
        return (
            f"{self.monitor.metric} has had no better value than {best:.6g}{where} in {waited} "
            "evaluations"
        )

    def __call__(self, trainer: Running) -> None:
        """Stops the trainer if it is time; the chief decides for all workers."""
        reason = self.reason(trainer.evaluations) if trainer.replicas.is_chief else None
        if trainer.replicas.gather([int(reason is not None)])[0, 0]:
            trainer.stop(reason or "the chief's early stopping")
