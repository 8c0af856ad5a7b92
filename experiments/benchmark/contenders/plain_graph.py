"""A Keras model, a gradient tape, a tf.function, a Python loop: as TensorFlow's guides begin."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from experiments.benchmark import workloads
from experiments.benchmark.contenders import base, keras_models


class Contender(base.Base):
    """A step a call."""

    def __init__(self, workload: workloads.Workload, _: int) -> None:
        self._batches = iter(keras_models.dataset(workload))
        model = keras_models.build(keras, workload)
        variables = model.trainable_variables
        optimizer = keras_models.optimizer(keras, clip=True)
        optimizer.build(variables)
        loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

        @tf.function  # type: ignore[untyped-decorator]
        def train_step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = loss_fn(y, model(x, training=True))
            gradients = tape.gradient(loss, [v.value for v in variables])
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return loss

        self._step = train_step

    def call(self, _: int) -> Any:
        """One step."""
        return self._step(*next(self._batches))
