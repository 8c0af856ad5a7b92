"""From settings to what goes on beside the updates: averages, decisions on evaluations."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

import loop
from experiments.flags import Settings
from loop import schedules
from loop.actions.best import BestCheckpoints
from loop.actions.early_stopping import EarlyStopping
from loop.actions.every import Boundaries
from loop.actions.plateau import ReduceOnPlateau
from loop.averaging.ema import WeightEMA
from loop.averaging.lookahead import Lookahead
from loop.averaging.shadow_weights import ShadowWeights
from loop.schedules import Schedule


class OuterLoop:
    """What a run's settings ask for besides its step; made within the replicas' scope.

    Attributes:
      after_update: for `GradientStep`.
      state: for `Trainer`, beside model and optimizer.
      early_stopping: None where it is off.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ema = WeightEMA(settings.ema) if settings.ema else None
        slow: list[ShadowWeights] = [Lookahead(settings.lookahead)] if settings.lookahead else []
        self.after_update: list[ShadowWeights] = [*slow, *([self._ema] if self._ema else [])]
        self._scale = (
            tf.Variable(1.0, trainable=False, name="learning_rate_scale")
            if settings.plateau
            else None
        )
        self.state = {} if self._scale is None else {"learning_rate_scale": self._scale}
        self.early_stopping = (
            EarlyStopping(patience=settings.early_stop, **self._monitored())
            if settings.early_stop
            else None
        )

    def _monitored(self) -> dict[str, Any]:
        metric = self._settings.monitor
        mode = "min" if metric == "loss" else "max"
        return {"metric": metric, "mode": mode, "every": self._settings.eval_every}

    def schedule(self, schedule: Schedule) -> Schedule:
        """The schedule, under the scale that a plateau reduces."""
        return schedule if self._scale is None else schedules.with_scale(schedule, self._scale)

    def trainer_options(self) -> dict[str, Any]:
        """Arguments of `loop.Trainer`."""
        settings = self._settings
        best = (
            BestCheckpoints(count=settings.keep_best, **self._monitored())
            if settings.keep_best
            else None
        )
        return {"evaluation_weights": self._ema, "keep_best": best, "actions": self._actions()}

    def _actions(self) -> list[Boundaries]:
        every = self._settings.eval_every
        actions: list[Boundaries] = []
        if self.early_stopping is not None:
            actions.append(loop.Every(every, self.early_stopping, at_start=True))
        if self._scale is not None:
            reduce = ReduceOnPlateau(
                scale=self._scale,
                patience=self._settings.plateau,
                factor=self._settings.plateau_factor,
                **self._monitored(),
            )
            actions.append(loop.Every(every, reduce))
        return actions
