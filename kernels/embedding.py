"""Rows of a table by integer id, where an id that has no row is reported."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from kernels import target


def in_range(ids: tf.Tensor, size: int | tf.Tensor) -> tf.Tensor:
    """Whether each integer id is in [0, size), bool, of ids' shape."""
    # As int64: int32 would overflow on a wide id, uint8 on the size.
    wide = tf.cast(ids, tf.int64)
    return (wide >= 0) & (wide < tf.cast(size, tf.int64))


def embedding_lookup(table: Any, ids: tf.Tensor) -> tf.Tensor:
    """The rows of a table, as `tf.nn.embedding_lookup`; its gradient is IndexedSlices.

    TensorFlow's own depends on who executes it: on a CPU an id out of range raises, a GPU gives
    zeros, XLA gives the nearest row and drops its gradient. Here such an id gives a row of NaN
    under every compiler. In the gradient it is NaN too, in row 0, so that a step's finite check
    stops even where the model dropped the NaN (a maximum may do that).

    Args:
      table: a tensor or tf.Variable, floating [rows, ...].
      ids: integer [...], each in [0, rows).

    Returns:
      [..., *table.shape[1:]], in the table's dtype.

    Raises:
      ValueError: if ids are not integers or the table is not floating.
    """
    ids = tf.convert_to_tensor(ids)
    if not ids.dtype.is_integer:
        raise ValueError(f"embedding_lookup: ids must be integers, got {ids.dtype.name}")
    if not table.dtype.is_floating:
        raise ValueError(f"embedding_lookup: table must be floating, got {table.dtype.name}")
    rows = table.shape[0] or tf.shape(table)[0]
    if ids.dtype not in (tf.int32, tf.int64):
        ids = tf.cast(ids, tf.int64)
    found = in_range(ids, rows)
    values = tf.nn.embedding_lookup(table, tf.where(found, ids, tf.zeros_like(ids)))

    def marked() -> tf.Tensor:
        # A product, not a select: its gradient is NaN even where the incoming gradient is 0.
        weight = tf.where(found, tf.ones([], values.dtype), tf.constant(math.nan, values.dtype))
        for _ in range(values.shape.rank - ids.shape.rank):
            weight = weight[..., tf.newaxis]
        return values * weight

    compiled_for = target.current()
    if compiled_for.compiler == "xla" or compiled_for.device == "gpu":
        return marked()  # Fused; on a GPU a branch would wait for the check to reach the host.
    # In the graph the product would be a pass over the rows, forward and backward.
    return tf.cond(tf.reduce_all(found), lambda: values, marked)
