"""Ours, through the public API."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import tensorflow as tf

import kernels
import loop
from experiments.benchmark import workloads
from experiments.benchmark.contenders import base, kernel_models, models
from loop import distribute, feeds, layers, optimizers, schedules
from loop.compiled.compiled_loop import Mode

# The race trains in short pieces; a user's run is one long one.
_STEPS_TO_COME = 1_000_000


class Model(loop.Module):
    """Named weights and the BatchNorm layers."""

    def __init__(self, workload: workloads.Workload) -> None:
        self.workload = workload
        self.weights: dict[str, tf.Variable] = {}
        self.batch_norms: list[layers.BatchNorm] = []
        momentum, epsilon = workloads.BATCH_NORM_MOMENTUM, workloads.BATCH_NORM_EPSILON
        for name, value in kernel_models.initial_weights(workload).items():
            layer, _, part = name.rpartition("/")
            if part == "gamma":
                norm = layers.BatchNorm(len(value), name=layer, momentum=momentum, epsilon=epsilon)
                self.batch_norms.append(norm)
            elif part != "beta":
                self.weights[name] = tf.Variable(value, name=name)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """The logits in training."""

        def batch_norm(i: int, x: tf.Tensor, relu: bool) -> tf.Tensor:
            layer = self.batch_norms[i]
            layer.relu = relu
            return layer(x, training=True)

        weights: Mapping[str, Any] = self.weights
        if x.dtype.is_floating and x.dtype != tf.float32:  # as a layer casts its own
            weights = {name: tf.cast(value, x.dtype) for name, value in weights.items()}
        return models.logits(self.workload, kernel_models.operations(weights, batch_norm), x)


def resident_feed(workload: workloads.Workload) -> feeds.Feed:
    """The workload's examples on the device, in the order of storage."""
    x, y = workloads.examples(workload)
    return feeds.Arrays({"x": x, "y": y}, batch_size=workload.batch, shuffle=False)


class Contender(base.Base):
    """A Trainer over a resident feed in the order of storage.

    Args:
      workload: what to train.
      steps_per_call: the workload's or the referee's; ours chooses its own unless `as_told`.
      compile: "auto" for what a user gets.
      as_told: whether `steps_per_call` is taken.
      sparse: what Adam does with the rows that a batch does not have.
      precision: "float32" or "mixed_bfloat16".
      replicas: where to train; one replica if None.
      make_feed: what gives the batches, of "x" and "y".

    Attributes:
      step: the training step.
      feed: its batches.
      mode: `compile` after the choice.
    """

    def __init__(
        self,
        workload: workloads.Workload,
        steps_per_call: int,
        *,
        compile: Mode | Literal["auto"] = "auto",
        as_told: bool = False,
        sparse: optimizers.base.Sparse = "exact",
        precision: str = "float32",
        replicas: distribute.Replicas | None = None,
        make_feed: Callable[[workloads.Workload], feeds.Feed] = resident_feed,
    ) -> None:
        replicas = replicas or distribute.single()
        rate, decay_steps = workloads.LEARNING_RATE, workloads.DECAY_STEPS
        optimizer = optimizers.Adam(
            schedules.exponential_decay(
                rate, decay_steps=decay_steps, decay_rate=workloads.DECAY_RATE
            ),
            beta1=workloads.BETA_1,
            beta2=workloads.BETA_2,
            epsilon=workloads.EPSILON,
            sparse=sparse,
        )

        def loss_fn(batch: dict[str, tf.Tensor]) -> tf.Tensor:
            loss = kernel_models.losses(batch["y"], model(batch["x"]))
            return tf.reduce_mean(loss, -1) if workload.family == "transformer" else loss

        clip = kernels.ClipByGlobalNorm(workloads.CLIP_NORM)
        with replicas.scope():
            model = Model(workload)
            self.step = loop.GradientStep(
                loss_fn, model.trainable_variables, optimizer, clip=clip, precision=precision
            )
        self.feed = make_feed(workload)
        self._losses: list[float] = []
        self._wanted = 0
        self._trainer = loop.Trainer(
            step=self.step,
            feed=self.feed,
            state={"model": model, "optimizer": optimizer},
            compile=compile,
            steps_per_call=steps_per_call if as_told else None,
            writers=[self._collect],
            replicas=replicas,
        )
        self._trainer.compiled_loop(steps=_STEPS_TO_COME)
        self.compile = self.mode = self._trainer.mode
        self.steps_per_call = self._trainer.steps_per_call
        self.note = f"compile={self.compile}, steps_per_call={self.steps_per_call}"

    def _collect(self, rows: loop.Rows) -> None:
        if len(self._losses) < self._wanted:
            self._losses += rows["loss"].tolist()

    def first_losses(self, count: int) -> list[float]:
        """The losses in the rows of the first steps."""
        self._wanted = count
        self._trainer.train(until=count)
        return self._losses

    def measured(self) -> dict[str, float]:
        """Seconds spent so far, by phase; and by all threads of the process together, "cpu"."""
        return {**self._trainer.meter.seconds, "cpu": time.process_time()}

    def run(self, steps: int) -> None:
        """Trains; every call ends with its rows on the host."""
        self._trainer.train(until=int(self._trainer.global_step) + steps)
