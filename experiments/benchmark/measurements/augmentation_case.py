"""Augmentation: ours against Keras's layers and its ImageDataGenerator."""

from __future__ import annotations

import importlib.util

import keras
import numpy as np
import tensorflow as tf

import kernels
from experiments.benchmark.measurements.kernel_cases import Built, Case, Form, Shape

GENERATOR = "keras ImageDataGenerator"


def has(module: str) -> bool:
    """Whether a module is installed."""
    return importlib.util.find_spec(module) is not None


def _image_data_generator(images: tf.Tensor) -> Form:
    """The preset's original, on the host."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    generator = ImageDataGenerator(
        rotation_range=20, width_shift_range=0.2, height_shift_range=0.2, horizontal_flip=True
    )
    flow = generator.flow(images.numpy(), batch_size=len(images), shuffle=False)
    return Form(lambda *_: next(flow), runs_as="host")


def build(shape: Shape, _: tf.DType) -> Built:
    """The preset `article`, on a batch of images of this shape."""
    images = tf.constant(np.random.default_rng(0).random(shape, np.float32))
    augmentation = kernels.Augmentation.article()
    # The same three transforms as layers; Keras switches XLA off for them.
    layers = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(20 / 360, fill_mode="nearest"),
            keras.layers.RandomTranslation(0.2, 0.2, fill_mode="nearest"),
        ]
    )
    layers(images, training=True)

    def ours(images: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        return augmentation(images, seed=1, step=step, positions=tf.range(shape[0]))

    def by_layers(images: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        return layers(images, training=True)

    name = "keras.RandomFlip + RandomRotation + RandomTranslation"
    references, missing = {name: Form(by_layers, runs_as="graph")}, []
    if has("scipy"):  # it resamples with SciPy, and would say so at the first batch only
        references[GENERATOR] = _image_data_generator(images)
    else:
        missing.append(f"augment.article: {GENERATOR}: needs SciPy; pip install scipy")
    return Built([images, tf.constant(7, tf.int64)], 0, Form(ours), references, missing)


CASES = (
    Case("augment.article", (128, 28, 28, 1), build, ("",), quick=True),
    Case("augment.article", (128, 32, 32, 3), build, ("",)),
)
