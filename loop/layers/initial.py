"""The initial values of a layer's variables, and the check of its sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kernels import random


def drawn(
    shape: Sequence[int], *, name: str, seed: int, deviation: float, dtype: tf.DType
) -> tf.Variable:
    """A variable of normal values, each a function of (seed, name, place)."""
    rows = tf.range(shape[0])
    values = random.normal(seed, name, 0, rows, tuple(shape[1:]), dtype=dtype)
    return tf.Variable(values * tf.constant(deviation, dtype), name=name)


def filled(value: float, size: int, *, name: str, dtype: Any, trainable: bool) -> tf.Variable:
    """A variable [size] whose elements all have one value."""
    return tf.Variable(tf.fill([size], tf.cast(value, dtype)), name=name, trainable=trainable)


def check_positive(layer: str, **sizes: int) -> None:
    """Raises ValueError, with the layer's name, if one of the sizes is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{layer}: {name} must be at least 1, got {size}")
