# mypy: disable-error-code="import-not-found"
"""Orbit's StandardTrainer with its defaults: a tf.function, a tf.while_loop, an iterator.

Runs in the environment that has Orbit and tf_keras.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orbit
import tensorflow as tf
import tf_keras

from experiments.benchmark import workloads
from experiments.benchmark.peers import keras_models


class Trainer(orbit.StandardTrainer):  # type: ignore[misc]  # Orbit has no types
    """One model, one optimizer, the mean loss of each call."""

    def __init__(self, workload: workloads.Workload, *, jit_compile: bool) -> None:
        super().__init__(keras_models.dataset(workload))
        model = keras_models.build(tf_keras, workload)
        variables = model.trainable_variables
        optimizer = keras_models.optimizer(tf_keras, clip=False)
        optimizer.build(variables)
        loss_fn = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # The jitted step holds the whole update; Orbit itself offers no jit_compile.
        self._loss = tf.Variable(0.0)

        def update(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = loss_fn(y, model(x, training=True))
            gradients = tape.gradient(loss, variables)
            gradients, _ = tf.clip_by_global_norm(gradients, workloads.CLIP_NORM)
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return loss

        self._update = tf.function(update, jit_compile=True) if jit_compile else update

    def train_step(self, iterator: Iterator[Any]) -> None:
        """One step, as Orbit's loop calls it."""
        self._loss.assign(self._update(*next(iterator)))

    def train_loop_end(self) -> dict[str, Any]:
        """The last step's loss."""
        return {"loss": self._loss.read_value()}


class Orbit:
    """Calls the trainer as Orbit's Controller does, `steps_per_call` steps at a time."""

    def __init__(self, workload: workloads.Workload, steps: int, *, jit_compile: bool) -> None:
        self._trainer = Trainer(workload, jit_compile=jit_compile)
        self._steps = steps

    def first_losses(self, count: int) -> list[float]:
        """Each of the first steps' losses, one step a call."""
        return [float(self._trainer.train(tf.constant(1))["loss"]) for _ in range(count)]

    def run(self, steps: int) -> None:
        """Whole calls, then waits for the last loss."""
        for start in range(0, steps, self._steps):
            loss = self._trainer.train(tf.constant(min(self._steps, steps - start)))["loss"]
        loss.numpy()


def graph(workload: workloads.Workload, steps_per_call: int) -> Orbit:
    """Orbit as it comes."""
    return Orbit(workload, steps_per_call, jit_compile=False)


def xla(workload: workloads.Workload, steps_per_call: int) -> Orbit:
    """Orbit around a step that the user has compiled with XLA."""
    return Orbit(workload, steps_per_call, jit_compile=True)
