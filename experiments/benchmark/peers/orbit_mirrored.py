# mypy: disable-error-code="import-not-found"
"""Contender orbit_mirrored: Orbit's StandardTrainer on two virtual CPUs under MirroredStrategy.

Written as Orbit's users do: per-replica losses over the global batch, gradients summed over the
replicas and then clipped, so that it computes what ours does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orbit
import tensorflow as tf
import tf_keras

from experiments.benchmark import workloads
from experiments.benchmark.peers import keras_models, orbit_trainer, worker


class Trainer(orbit.StandardTrainer):  # type: ignore[misc]  # Orbit has no types
    """One model and optimizer, mirrored."""

    def __init__(self, workload: workloads.Workload, strategy: tf.distribute.Strategy) -> None:
        data = strategy.experimental_distribute_dataset(keras_models.dataset(workload))
        with strategy.scope():
            super().__init__(data)
            self._model = keras_models.build(tf_keras, workload)
            self._optimizer = keras_models.optimizer(tf_keras, clip=False)
            self._optimizer.build(self._model.trainable_variables)
            self._loss_fn = tf_keras.losses.SparseCategoricalCrossentropy(
                from_logits=True, reduction="sum"
            )
            self._loss = tf.Variable(
                0.0,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )
        self._workload = workload
        self._mirrored = strategy

    def _replica_step(self, x: Any, y: Any) -> None:
        variables = self._model.trainable_variables
        with tf.GradientTape() as tape:
            loss = self._loss_fn(y, self._model(x, training=True)) / self._workload.batch
        gradients = tape.gradient(loss, variables)
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        gradients, _ = tf.clip_by_global_norm(gradients, workloads.CLIP_NORM)
        pairs = zip(gradients, variables, strict=True)
        self._optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
        self._loss.assign(loss)

    def train_step(self, iterator: Iterator[Any]) -> None:
        """One step on every replica."""
        self._mirrored.run(self._replica_step, args=next(iterator))

    def train_loop_end(self) -> dict[str, Any]:
        """The last step's loss over the global batch."""
        return {"loss": self._loss.read_value()}


class Mirrored(orbit_trainer.Orbit):
    """Calls the mirrored trainer, `steps_per_call` steps at a time."""

    def __init__(self, workload: workloads.Workload, steps: int) -> None:
        self._trainer = Trainer(workload, keras_models.mirrored_strategy())
        self._steps = steps


if __name__ == "__main__":
    worker.serve(Mirrored)
