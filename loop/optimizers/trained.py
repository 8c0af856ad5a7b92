"""A variable under training: its rule, its slots, and how to reach its copy on this replica."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from loop.optimizers.rule import Rule

Gradient = Any  # tf.Tensor | tf.IndexedSlices | None; TensorFlow is untyped.


@dataclasses.dataclass(frozen=True)
class Trained:
    """A variable under training and all that is fixed about its updates.

    Attributes:
      name: the variable's name: a Keras variable's path, a tf.Variable's name without ":0".
      variable: the tf.Variable.
      rule: how it is updated.
      slots: the variables of the rule's slots, in the rule's order, shaped like the variable.
      multiplier: factor on the learning rate.
      decay: weight decay that the updater takes off, 0 if masked out or part of the rule.
      exact: whether a sparse gradient means the dense one with zeros in the other rows.
      dtype: the dtype that rules compute in: the variable's, float32 for the half types.
    """

    name: str
    variable: tf.Variable
    rule: Rule
    slots: tuple[tf.Variable, ...]
    multiplier: float
    decay: float
    exact: bool
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
