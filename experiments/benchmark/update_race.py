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
CLIP_NORM = 1.0
# Updates a call: a training call makes many, so the call's own cost per variable counts for little.
UPDATES = 8

Update = Callable[[list[tf.Tensor]], None]


def _ours(tensors: int) -> Update:
    variables = [tf.Variable(tf.ones(SIZE), name=f"v{i}") for i in range(tensors)]
    optimizer = optimizers.Adam(0.001)
    optimizer.build(variables)
    clip = kernels.ClipByGlobalNorm(CLIP_NORM)
    step = tf.constant(7, tf.int64)

    def update(gradients: list[tf.Tensor]) -> None:
        optimizer.apply(clip(gradients, variables).gradients, global_step=step)

    return update


def _keras(tensors: int) -> Update:
    variables = [keras.Variable(np.ones(SIZE, np.float32)) for _ in range(tensors)]
    optimizer = keras.optimizers.Adam(0.001)
    optimizer.build(variables)

    def update(gradients: list[tf.Tensor]) -> None:
        clipped, _ = tf.clip_by_global_norm(gradients, CLIP_NORM)
        optimizer.apply_gradients(zip(clipped, variables, strict=True))

    return update


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


def run(*, quick: bool, rounds: int, ms: float) -> Iterator[Measured]:
    """Times an update of `TENSORS` tensors of `SIZE` elements on both targets.

    Args:
      quick: a tenth of the tensors.
      rounds: rounds to interleave.
      ms: about how long a contender runs in a round, milliseconds.
    """
    tensors = TENSORS // 10 if quick else TENSORS
    values = np.random.default_rng(0).standard_normal((2, tensors, SIZE)).astype(np.float32)
    gradients = tf.constant(values)
    runs = {
        "graph": _compiled(_ours(tensors), gradients, "graph"),
        "xla": _compiled(_ours(tensors), gradients, "xla"),
        "keras": _compiled(_keras(tensors), gradients, "graph"),  # as the goal says
    }
    for each in runs.values():
        each()
    measures = {
        name: timing.per_call(each, timing.calls_for(each, ms / 1e3)) for name, each in runs.items()
    }
    measured = timing.interleave(measures, rounds)
    milliseconds = {name: [m / UPDATES for m in each] for name, each in measured.items()}
    for compiler in COMPILERS:
        theirs = {"tf.clip_by_global_norm + keras.Adam (graph)": milliseconds["keras"]}
        pair = {"ours": milliseconds[compiler], **theirs}
        yield Measured("clip + adam", (tensors, SIZE), "float32", compiler, pair)
