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
from experiments.benchmark.contenders import base, keras_models


class Trainer(orbit.StandardTrainer):  # type: ignore[misc]  # Orbit has no types
    """One model, one optimizer; each call gives its last step's loss.

    Written as Orbit's users do for several replicas: per-replica losses over the global batch,
    gradients summed over the replicas and then clipped, so that it computes what ours does.
    """

    def __init__(self, workload: workloads.Workload, *, jit_compile: bool, mirrored: bool) -> None:
        self._mirrored = keras_models.mirrored_strategy() if mirrored else None
        data, strategy = (
            keras_models.dataset(workload),
            self._mirrored or tf.distribute.get_strategy(),
        )
        super().__init__(strategy.experimental_distribute_dataset(data) if mirrored else data)
        with strategy.scope():
            model = keras_models.build(tf_keras, workload)
            optimizer = keras_models.optimizer(tf_keras, clip=False)
            optimizer.build(model.trainable_variables)
            # On several replicas a sum over each one's part, divided by the whole batch.
            loss_fn = tf_keras.losses.SparseCategoricalCrossentropy(
                from_logits=True, reduction="sum" if mirrored else "auto"
            )
            reading, sums = tf.VariableSynchronization.ON_READ, tf.VariableAggregation.SUM
            several = {"synchronization": reading, "aggregation": sums} if mirrored else {}
            self._loss = tf.Variable(0.0, **several)

        def update(x: Any, y: Any) -> Any:
            variables = model.trainable_variables
            with tf.GradientTape() as tape:
                loss = loss_fn(y, model(x, training=True)) / (workload.batch if mirrored else 1)
            gradients = tape.gradient(loss, variables)
            if mirrored:
                context = tf.distribute.get_replica_context()
                gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            gradients, _ = tf.clip_by_global_norm(gradients, workloads.CLIP_NORM)
            pairs = zip(gradients, variables, strict=True)
            optimizer.apply_gradients(pairs, skip_gradients_aggregation=mirrored)
            return loss

        # The jitted step holds the whole update; Orbit itself offers no jit_compile.
        self._update = tf.function(update, jit_compile=True) if jit_compile else update

    def _step(self, x: Any, y: Any) -> None:
        self._loss.assign(self._update(x, y))

    def train_step(self, iterator: Iterator[Any]) -> None:
        """One step, on every replica, as Orbit's loop calls it."""
        if self._mirrored:
            self._mirrored.run(self._step, args=next(iterator))
        else:
            self._step(*next(iterator))

    def train_loop_end(self) -> dict[str, Any]:
        """The last step's loss."""
        return {"loss": self._loss.read_value()}


class Contender(base.Base):
    """Calls the trainer as Orbit's Controller does, `steps_per_call` steps at a time."""

    def __init__(
        self,
        workload: workloads.Workload,
        steps_per_call: int,
        *,
        jit_compile: bool = False,
        mirrored: bool = False,
    ) -> None:
        self.call_steps = steps_per_call
        self._trainer = Trainer(workload, jit_compile=jit_compile, mirrored=mirrored)

    def call(self, steps: int) -> Any:
        """The last step's loss."""
        return self._trainer.train(tf.constant(steps))["loss"]
