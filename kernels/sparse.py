"""Sparse gradients: IndexedSlices whose repeated rows are summed.

A row looked up twice in a batch appears twice in its gradient, and its gradient is the sum. Norms
and nonlinear rules need that sum. `tf.unique` finds the rows in graph mode; XLA has no dynamic
shapes, so there the rows are sorted and summed by segment, and the number of rows stays the
same. An out-of-range index cannot serve as padding: some executors drop it, some clamp it and some
refuse it.
"""

from __future__ import annotations

import tensorflow as tf

from kernels import target


def sum_duplicates(slices: tf.IndexedSlices) -> tf.IndexedSlices:
    """Sums the rows of one index into one row.

    The result means the same as `slices` to code that sums duplicates. Under XLA it has as many
    rows as `slices`: an index's first row holds its sum, its other rows are zero. In graph and
    eager mode each index appears once.

    Args:
      slices: values [n, ...] of any float dtype, indices [n] int32 or int64.

    Returns:
      values [n, ...] (XLA) or [distinct indices, ...], and their indices.

    Source: `tensorflow/python/training/optimizer.py`, _deduplicate_indexed_slices.
    """
    if target.current().compiler != "xla":
        return _sum_unique(slices)
    indices, values, first = _sum_sorted(slices)
    column = tf.reshape(first, [-1] + [1] * (values.shape.rank - 1))
    values = tf.where(column, values, tf.zeros([], values.dtype))
    return tf.IndexedSlices(values, indices, slices.dense_shape)


def row_totals(slices: tf.IndexedSlices) -> tf.IndexedSlices:
    """The summed gradient of each row, for a rule that reads rows, updates them and writes them.

    Under XLA it has as many rows as `slices`, and every row of one index holds the index's sum.
    So a rule computes the same new row for each of them, and writing (not adding) them is right in
    any order. The rows must not be summed again.

    Args:
      slices: values [n, ...] of any float dtype, indices [n] int32 or int64.

    Returns:
      values [n, ...] (XLA) or [distinct indices, ...], and their indices.
    """
    if target.current().compiler != "xla":
        return _sum_unique(slices)
    indices, values, _ = _sum_sorted(slices)
    return tf.IndexedSlices(values, indices, slices.dense_shape)


def _sum_unique(slices: tf.IndexedSlices) -> tf.IndexedSlices:
    indices, segments = tf.unique(slices.indices)
    values = tf.math.unsorted_segment_sum(slices.values, segments, tf.size(indices))
    return tf.IndexedSlices(values, indices, slices.dense_shape)


def _sum_sorted(slices: tf.IndexedSlices) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Indices [n] in order, the sum of each one's rows [n, ...], and which come first [n] bool."""
    order = tf.argsort(slices.indices, stable=True)
    indices = tf.gather(slices.indices, order)
    first = tf.concat(
        [tf.fill(tf.minimum(tf.shape(indices), 1), True), indices[1:] != indices[:-1]], 0
    )
    segments = tf.cumsum(tf.cast(first, tf.int32)) - 1
    totals = tf.math.unsorted_segment_sum(
        tf.gather(slices.values, order), segments, tf.shape(indices)[0]
    )
    return indices, tf.gather(totals, segments), first
