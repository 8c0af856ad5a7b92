"""Clipping and Adam over many small tensors: ours against TensorFlow's clip and Keras's Adam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import kernels
from experiments.benchmark.measurements.kernel_cases import Built, Case, Form, Shape
from loop import optimizers

CLIP_NORM = 1.0
# Updates a call: a training call makes many, so the call's own cost per variable counts for little.
UPDATES = 8

Update = Callable[[list[tf.Tensor]], None]


def ours(tensors: int, size: int) -> tuple[Update, list[Any]]:
    """Our clip and Adam, and the variables, of ones, that they update."""
    variables = [tf.Variable(tf.ones(size), name=f"v{i}") for i in range(tensors)]
    optimizer = optimizers.Adam(0.001, epsilon=1e-7)
    optimizer.build(variables)
    clip = kernels.ClipByGlobalNorm(CLIP_NORM)
    step = tf.constant(7, tf.int64)

    def update(gradients: list[tf.Tensor]) -> None:
        optimizer.apply(clip(gradients, variables).gradients, global_step=step)

    return update, variables


def by_keras(tensors: int, size: int) -> tuple[Update, list[Any]]:
    """TensorFlow's clip and Keras's Adam, and the variables, of ones, that they update."""
    variables = [keras.Variable(np.ones(size, np.float32)) for _ in range(tensors)]
    optimizer = keras.optimizers.Adam(0.001, epsilon=1e-7)
    optimizer.build(variables)

    def update(gradients: list[tf.Tensor]) -> None:
        clipped, _ = tf.clip_by_global_norm(gradients, CLIP_NORM)
        optimizer.apply_gradients(zip(clipped, variables, strict=True))

    return update, variables


def _build(shape: Shape, _: tf.DType) -> Built:
    """Updates of as many tensors of as many elements; each takes one of two sets of gradients."""

    def repeated(update: Update, **runs_as: Any) -> Form:
        def call(gradients: tf.Tensor) -> tf.Tensor:
            def body(i: tf.Tensor) -> tf.Tensor:
                update(tf.unstack(gradients[i % 2]))
                return i + 1

            return tf.while_loop(lambda i: i < UPDATES, body, [0], parallel_iterations=1)[0]

        return Form(call, **runs_as)

    values = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    # The goal is set against the reference's graph, on both targets.
    by_graph = repeated(by_keras(*shape)[0], runs_as="graph")
    references = {"tf.clip_by_global_norm + keras.Adam (graph)": by_graph}
    return Built([tf.constant(values)], 0, repeated(ours(*shape)[0]), references)


_GRAPH = Case("clip + adam", (1000, 1000), _build, ("",), quick=(20, 1000), turns=UPDATES)
# Under XLA:CPU the compilation takes about a quarter of a second a tensor.
CASES = (
    _GRAPH._replace(compilers=("graph",)),
    _GRAPH._replace(compilers=("xla",), shape=(100, 1000)),
)
