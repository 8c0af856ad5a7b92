"""From settings to what `loop.Trainer` is made of: step, feed, state, evaluation, decisions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import tensorflow as tf

import loop
from experiments.data.datasets import Dataset
from experiments.flags import Settings
from experiments.training import models, pipeline, recipe
from experiments.training.evaluation_metrics import EvaluationMetrics
from loop import distribute, schedules
from loop.actions.best import BestCheckpoints
from loop.actions.early_stopping import EarlyStopping
from loop.actions.every import Boundaries
from loop.actions.plateau import ReduceOnPlateau
from loop.averaging.ema import WeightEMA
from loop.averaging.lookahead import Lookahead
from loop.averaging.shadow_weights import ShadowWeights
from loop.precision.policy import Precision


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run's trainer is made of, whatever runs its steps.

    Attributes:
      model: what is trained.
      step: of the training.
      feed: its examples.
      state: name -> owner of variables, the model and the optimizer among them.
      evaluation: over the test examples.
      replicas: where the step and the evaluation run.
      averages: of the weights, kept by the step.
      evaluated: the averages that an evaluation is of, or None for the weights themselves.
      keep_best: which checkpoints are kept for their evaluation, or None.
      actions: decisions on evaluations.
    """

    model: models.Model
    step: loop.GradientStep
    feed: loop.feeds.Arrays | loop.feeds.Records
    state: dict[str, Any]
    evaluation: loop.Evaluation
    replicas: distribute.Replicas
    averages: list[ShadowWeights]
    evaluated: WeightEMA | None
    keep_best: BestCheckpoints | None
    actions: list[Boundaries]

    def trainer(self, **options: Any) -> loop.Trainer:
        """A trainer of them; takes the other arguments of `loop.Trainer`."""
        return loop.Trainer(
            step=self.step,
            feed=self.feed,
            state=self.state,
            evaluation=self.evaluation,
            replicas=self.replicas,
            evaluation_weights=self.evaluated,
            keep_best=self.keep_best,
            **options,
        )


def make(
    settings: Settings,
    data: Dataset,
    replicas: distribute.Replicas,
    total_steps: int,
    records: Path,
) -> Parts:
    """The parts of a run's trainer.

    Args:
      settings: of the run.
      data: its data set.
      replicas: where it runs.
      total_steps: how long it is.
      records: the folder of the shards; with `--feed=records` they are written if absent.
    """
    # Of the batch's entries only images are cast: mixup's targets need more than a half type.
    precision = Precision(settings.precision, inputs=("image",))
    dtype = precision.variable_dtype
    with replicas.scope():
        model = models.make(
            settings.model,
            data.image_shape,
            data.classes,
            dropout=settings.dropout,
            seed=settings.seed,
            precision=precision,
            synchronized=settings.batch_norm == "synchronized",
        )
        schedule = recipe.schedule(settings, total_steps)
        scale = None
        if settings.plateau:
            scale = tf.Variable(1.0, trainable=False, name="learning_rate_scale")
            schedule = schedules.with_scale(schedule, scale)
        ema = WeightEMA(settings.ema) if settings.ema else None
        slow: list[ShadowWeights] = [Lookahead(settings.lookahead)] if settings.lookahead else []
        averages = [*slow, *([ema] if ema else [])]
        optimizer = recipe.optimizer(settings, schedule, output_kernel=models.output_kernel(model))
        step = loop.GradientStep(
            pipeline.loss_function(model),
            model.trainable_variables,
            optimizer,
            clip=recipe.clip(settings),
            accumulate=settings.accumulate,
            precision=precision,
            after_update=averages,
        )
    evaluated = models.InPrecision(model, precision)
    state = {"model": model, "optimizer": optimizer}
    keep = settings.keep_best
    return Parts(
        model=model,
        step=step,
        feed=pipeline.training_feed(settings, data, dtype, records),
        state=state if scale is None else {**state, "learning_rate_scale": scale},
        evaluation=pipeline.evaluation(evaluated, data, dtype, EvaluationMetrics(settings, data)),
        replicas=replicas,
        averages=averages,
        evaluated=ema,
        keep_best=BestCheckpoints(count=keep, **_monitored(settings)) if keep else None,
        actions=_decisions(settings, scale),
    )


def _decisions(settings: Settings, scale: tf.Variable | None) -> list[Boundaries]:
    """What is done at evaluations: an early stop, then a reduction of the learning rate."""
    every, monitored = settings.eval_every, _monitored(settings)
    actions: list[Boundaries] = []
    if settings.early_stop:
        stop = EarlyStopping(patience=settings.early_stop, **monitored)
        actions.append(loop.Every(every, stop, at_start=True))
    if scale is not None:
        patience, factor = settings.plateau, settings.plateau_factor
        reduce = ReduceOnPlateau(scale=scale, patience=patience, factor=factor, **monitored)
        actions.append(loop.Every(every, reduce))
    return actions


def _monitored(settings: Settings) -> dict[str, Any]:
    mode = "min" if settings.monitor == "loss" else "max"
    return {"metric": settings.monitor, "mode": mode, "every": settings.eval_every}
