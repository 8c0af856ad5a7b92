"""Contender tapestep: ours, through the public API."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import tensorflow as tf

import kernels
import loop
from experiments.benchmark import workloads
from experiments.benchmark.peers import kernel_models, worker
from loop import distribute, feeds, layers, optimizers, schedules
from loop.compiled.compiled_loop import Mode

# The race trains in short pieces; a user's run is one long one.
_STEPS_TO_COME = 1_000_000


MakeFeed = Callable[[workloads.Workload], feeds.Feed]


class Model(loop.Module):
    """Named weights and the BatchNorm layers."""

    def __init__(self, workload: workloads.Workload) -> None:
        self.workload = workload
        self.weights: dict[str, tf.Variable] = {}
        self.batch_norms: list[layers.BatchNorm] = []
        for name, value in kernel_models.initial_weights(workload).items():
            if name.endswith("/gamma"):
                self.batch_norms.append(
                    layers.BatchNorm(
                        len(value),
                        name=name.split("/")[0],
                        momentum=workloads.BATCH_NORM_MOMENTUM,
                        epsilon=workloads.BATCH_NORM_EPSILON,
                    )
                )
            elif not name.endswith("/beta"):
                self.weights[name] = tf.Variable(value, name=name)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """The logits in training."""

        def batch_norm(i: int, x: tf.Tensor, relu: bool) -> tf.Tensor:
            layer = self.batch_norms[i]
            layer.relu = relu
            return layer(x, training=True)

        weights: kernel_models.Weights = self.weights
        if x.dtype.is_floating and x.dtype != tf.float32:  # as a layer casts its own
            weights = {name: tf.cast(value, x.dtype) for name, value in weights.items()}
        return kernel_models.logits(self.workload, weights, x, batch_norm)


def resident_feed(workload: workloads.Workload) -> feeds.Feed:
    """The workload's examples on the device, in the order of storage."""
    x, y = workloads.examples(workload)
    return feeds.Arrays({"x": x, "y": y}, batch_size=workload.batch, shuffle=False)


class Tapestep:
    """A Trainer over a resident feed in the order of storage.

    Args:
      workload: what to train.
      _: the workload's steps a call, which ours chooses for itself unless told.
      compile: "auto" for what a user gets.
      steps_per_call: None for what a user gets.
      sparse: what Adam does with the rows that a batch does not have.
      precision: "float32" or "mixed_bfloat16".
      replicas: where to train.
      make_feed: what gives the batches, of "x" and "y".

    Attributes:
      step: the training step.
      feed: its batches.
      compile: the mode in use.
      steps_per_call: the most steps of a call.
      note: both.
    """

    def __init__(
        self,
        workload: workloads.Workload,
        _: int,
        *,
        compile: Mode | Literal["auto"] = "auto",
        steps_per_call: int | None = None,
        sparse: optimizers.base.Sparse = "exact",
        precision: str = "float32",
        replicas: distribute.Replicas | None = None,
        make_feed: MakeFeed = resident_feed,
    ) -> None:
        replicas = replicas or distribute.single()
        with replicas.scope():
            model = Model(workload)
        schedule = schedules.exponential_decay(
            workloads.LEARNING_RATE,
            decay_steps=workloads.DECAY_STEPS,
            decay_rate=workloads.DECAY_RATE,
        )
        optimizer = optimizers.Adam(
            schedule,
            beta1=workloads.BETA_1,
            beta2=workloads.BETA_2,
            epsilon=workloads.EPSILON,
            sparse=sparse,
        )

        def loss_fn(batch: dict[str, tf.Tensor]) -> tf.Tensor:
            loss = kernels.softmax_cross_entropy(batch["y"], model(batch["x"]))
            return tf.reduce_mean(loss, -1) if workload.family == "transformer" else loss

        self._losses: list[float] = []
        self._wanted = 0
        clip = kernels.ClipByGlobalNorm(workloads.CLIP_NORM)
        with replicas.scope():
            self.step = loop.GradientStep(
                loss_fn, model.trainable_variables, optimizer, clip=clip, precision=precision
            )
        self.feed = make_feed(workload)
        self._trainer = loop.Trainer(
            step=self.step,
            feed=self.feed,
            state={"model": model, "optimizer": optimizer},
            compile=compile,
            steps_per_call=steps_per_call,
            writers=[self._collect],
            replicas=replicas,
        )
        self._trainer.compiled_loop(steps=_STEPS_TO_COME)
        self.compile = self._trainer.mode
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


def fixed(compile: Mode) -> worker.Build:
    """Ours in this mode, at the steps a call that the referee names: nothing is chosen."""

    def build(workload: workloads.Workload, steps_per_call: int) -> Tapestep:
        return Tapestep(workload, 0, compile=compile, steps_per_call=steps_per_call)

    return build


if __name__ == "__main__":
    worker.serve(Tapestep)
