"""Augmentation: ours against Keras's layers and its ImageDataGenerator."""

from __future__ import annotations

import importlib.util
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

BATCH = 128
SHAPES = ((BATCH, 28, 28, 1), (BATCH, 32, 32, 3))


def _ours(images: tf.Tensor, compiler: Compiler) -> Callable[[], Any]:
    augmentation = kernels.Augmentation.article()

    def call(images: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        with target.tracing_for(compiler):
            return augmentation(images, seed=1, step=step, positions=tf.range(BATCH))

    function = tf.function(call, jit_compile=compiler == "xla" or None, autograph=False)
    step = tf.constant(7, tf.int64)
    return lambda: function(images, step).numpy()


def _keras_layers(images: tf.Tensor) -> Callable[[], Any]:
    """The same three transforms as layers; Keras switches XLA off for them."""
    layers = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(20 / 360, fill_mode="nearest"),
            keras.layers.RandomTranslation(0.2, 0.2, fill_mode="nearest"),
        ]
    )
    layers(images, training=True)
    function = tf.function(lambda x: layers(x, training=True), autograph=False)
    return lambda: function(images).numpy()


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _image_data_generator(images: tf.Tensor) -> Callable[[], Any]:
    """The preset's original, on the host.

    Raises:
      ImportError: without SciPy, which it resamples with.
    """
    if not _has("scipy"):  # Keras would say so at the first batch only
        raise ImportError("needs SciPy; pip install scipy")
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    generator = ImageDataGenerator(
        rotation_range=20, width_shift_range=0.2, height_shift_range=0.2, horizontal_flip=True
    )
    flow = generator.flow(images.numpy(), batch_size=BATCH, shuffle=False)
    return lambda: next(flow)


def run(*, quick: bool, rounds: int, ms: float, missing: list[str]) -> Iterator[Measured]:
    """Times the preset `article` on both targets against each reference.

    Args:
      quick: the first shape alone.
      rounds: rounds to interleave.
      ms: about how long a contender runs in a round, milliseconds.
      missing: gets a line for a reference that cannot run.
    """
    for shape in SHAPES[:1] if quick else SHAPES:
        values = np.random.default_rng(0).random(shape, np.float32)
        images = tf.constant(values)
        references = {
            "keras.RandomFlip + RandomRotation + RandomTranslation": _keras_layers(images)
        }
        try:
            references["keras ImageDataGenerator"] = _image_data_generator(images)
        except ImportError as error:
            missing.append(f"augment.article: ImageDataGenerator: {error}")
        for compiler in COMPILERS:
            runs = {"ours": _ours(images, compiler), **references}
            for each in runs.values():
                each()
            measures = {
                name: timing.per_call(each, timing.calls_for(each, ms / 1e3))
                for name, each in runs.items()
            }
            milliseconds = timing.interleave(measures, rounds)
            yield Measured("augment.article", shape, "float32", compiler, milliseconds)
