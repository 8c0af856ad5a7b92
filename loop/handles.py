"""Reads and writes a variable by its resource handle.

By raw operations, so that no distribution strategy takes part: inside `strategy.run` they reach
this replica's copy, and every replica reads and writes its own.
"""

from __future__ import annotations

import tensorflow as tf


def read(variable: tf.Variable) -> tf.Tensor:
    """This replica's value of a variable.

    Args:
      variable: a `tf.Variable`; outside `strategy.run` one that is not distributed.
    """
    return read_handle(variable.handle, variable.dtype, variable.shape)


def write(variable: tf.Variable, value: tf.Tensor) -> None:
    """Sets this replica's value of a variable."""
    write_handle(variable.handle, value)


def read_handle(handle: tf.Tensor, dtype: tf.DType, shape: tf.TensorShape) -> tf.Tensor:
    """The whole value behind a handle that was looked up before.

    Args:
      handle: the resource.
      dtype: of the variable.
      shape: of the variable.
    """
    value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
    if not tf.executing_eagerly():  # An eager value has its shape, and checking it takes time.
        value.set_shape(shape)
    return value


def write_handle(handle: tf.Tensor, value: tf.Tensor) -> None:
    """Sets the value behind a handle."""
    tf.raw_ops.AssignVariableOp(resource=handle, value=value)
