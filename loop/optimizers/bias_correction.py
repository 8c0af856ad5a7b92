"""The correction of moments that start at zero."""

from __future__ import annotations

import tensorflow as tf


def rounded(value: float, dtype: tf.DType) -> float:
    """The value as `dtype` holds it.

    A moment decays by the beta of its dtype. In float32 1 - 0.999999 is 1.3% off, and a correction
    by the exact beta would leave that error in the step; by the rounded one it cancels.
    """
    return float(dtype.as_numpy_dtype(value))


def one_minus_power(base: float, count: tf.Tensor) -> tf.Tensor:
    """`1 - base^count`, without the cancellation of the plain form.

    Args:
      base: in [0, 1).
      count: scalar float64 (exact to 2^53), at least 1.

    Returns:
      A float64 scalar, accurate to rounding for any count.
    """
    if base == 0:
        return tf.ones([], tf.float64)
    return -tf.math.expm1(count * tf.math.log(tf.constant(base, tf.float64)))
