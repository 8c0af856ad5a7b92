"""Clipping and Adam over many small tensors: ours against TensorFlow's clip and Keras's Adam."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import kernels
from experiments.benchmark import timing
from experiments.benchmark.kernel_cases import COMPILERS, Compiler
from experiments.benchmark.kernel_rows import Measured
from kernels import target
from loop import optimizers

TENSORS, SIZE = 1000, 1000
# Under XLA:CPU the compilation alone takes about a quarter of a second a tensor.
FEW_TENSORS, QUICK_TENSORS = 100, 20
REFERENCE = "tf.clip_by_global_norm + keras.Adam (graph)"
CLIP_NORM = 1.0
# Updates a call: a training call makes many, so the call's own cost per variable counts for little.
UPDATES = 8

Update = Callable[[list[tf.Tensor]], None]


def ours(tensors: int) -> tuple[Update, list[Any]]:
    """Our clip and Adam, and the variables, of ones, that they update."""
    variables = [tf.Variable(tf.ones(SIZE), name=f"v{i}") for i in range(tensors)]
    optimizer = optimizers.Adam(0.001, epsilon=1e-7)
    optimizer.build(variables)
    clip = kernels.ClipByGlobalNorm(CLIP_NORM)
    step = tf.constant(7, tf.int64)

    def update(gradients: list[tf.Tensor]) -> None:
        optimizer.apply(clip(gradients, variables).gradients, global_step=step)

    return update, variables


def by_keras(tensors: int) -> tuple[Update, list[Any]]:
    """TensorFlow's clip and Keras's Adam, and the variables, of ones, that they update."""
    variables = [keras.Variable(np.ones(SIZE, np.float32)) for _ in range(tensors)]
    optimizer = keras.optimizers.Adam(0.001, epsilon=1e-7)
    optimizer.build(variables)

    def update(gradients: list[tf.Tensor]) -> None:
        clipped, _ = tf.clip_by_global_norm(gradients, CLIP_NORM)
        optimizer.apply_gradients(zip(clipped, variables, strict=True))

    return update, variables


def _compiled(update: Update, gradients: tf.Tensor, compiler: Compiler) -> Callable[[], Any]:
    """`UPDATES` updates in one call; each takes its own of two sets of gradients."""

    def call(gradients: tf.Tensor) -> tf.Tensor:
        def body(i: tf.Tensor) -> tf.Tensor:
            update(tf.unstack(gradients[i % 2]))
            return i + 1

        with target.tracing_for(compiler):
            return tf.while_loop(lambda i: i < UPDATES, body, [0], parallel_iterations=1)[0]

    function = tf.function(call, jit_compile=compiler == "xla" or None, autograph=False)
    return lambda: function(gradients).numpy()


def _measure(compiler: Compiler, tensors: int, rounds: int, ms: float) -> Measured:
    values = np.random.default_rng(0).standard_normal((2, tensors, SIZE)).astype(np.float32)
    gradients = tf.constant(values)
    runs = {
        "ours": _compiled(ours(tensors)[0], gradients, compiler),
        REFERENCE: _compiled(by_keras(tensors)[0], gradients, "graph"),  # as the goal says
    }
    for each in runs.values():
        each()
    measures = {
        name: timing.per_call(each, timing.calls_for(each, ms / 1e3)) for name, each in runs.items()
    }
    measured = timing.interleave(measures, rounds)
    milliseconds = {name: [m / UPDATES for m in each] for name, each in measured.items()}
    return Measured("clip + adam", (tensors, SIZE), "float32", compiler, milliseconds)


def run(*, quick: bool, rounds: int, ms: float) -> Iterator[Measured]:
    """Times updates of many small tensors on both targets against the reference's graph.

    Args:
      quick: `QUICK_TENSORS` alone.
      rounds: rounds to interleave.
      ms: about how long a contender runs in a round, milliseconds.
    """
    for compiler in COMPILERS:
        tensors = FEW_TENSORS if compiler == "xla" else TENSORS
        yield _measure(compiler, QUICK_TENSORS if quick else tensors, rounds, ms)
