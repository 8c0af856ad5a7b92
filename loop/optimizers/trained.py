"""A variable under training: its name, its slots, and how to reach its copy on this replica."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

Gradient = Any  # tf.Tensor | tf.IndexedSlices | None; TensorFlow is untyped.
Slots = dict[str, tf.Tensor]
Scalars = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A variable under training and all that is fixed about its updates.

    Attributes:
      name: the variable's name: a Keras variable's path, a tf.Variable's name without ":0".
      variable: the tf.Variable.
      slots: the variable's slots by name, shaped like it.
      multiplier: factor on the learning rate.
      weight_decay: its weight decay, 0 if masked out.
      dtype: the dtype that rules compute in: the variable's, float32 for the half types.
    """

    name: str
    variable: tf.Variable
    slots: Mapping[str, tf.Variable]
    multiplier: float
    weight_decay: float
    dtype: tf.DType


def compute_dtype(dtype: tf.DType) -> tf.DType:
    """The dtype of slots and rules: the variable's own, float32 for the half types."""
    return dtype if dtype in (tf.float32, tf.float64) else tf.float32


def gradient_shape(gradient: Gradient, trained: Trained) -> tf.TensorShape:
    """A gradient's shape; of IndexedSlices with as many rows as the variable."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient.shape
    return trained.variable.shape[:1].concatenate(gradient.values.shape[1:])


def resource(variable: tf.Variable) -> tf.Tensor:
    """The variable's resource handle; inside `strategy.run`, of this replica's copy."""
    return variable.handle


def read(handle: tf.Tensor, dtype: tf.DType, shape: tf.TensorShape) -> tf.Tensor:
    """The whole value behind a handle."""
    value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
    value.set_shape(shape)
    return value
