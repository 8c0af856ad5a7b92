"""Inverting a symmetric distribution's cumulative distribution exactly alike on every compiler.

A 32-bit word holds a sign and a tail probability p / 2**32 with p odd and below 2**31. As a
float32, p has an exponent and a mantissa; the exponent and the mantissa's top bits choose a cell,
the rest is the place within it, and the quantile is linear there. Cells by octaves of the
probability keep the relative precision far into the tail. The interpolation's product has at most
40 significant bits and is exact in float64, so a fused multiply-add and two roundings agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

Array: TypeAlias = "npt.NDArray[np.float64]"

CELL_BITS = 7
FRACTION_BITS = 23 - CELL_BITS
OCTAVES = 31


def table(upper_deviation: Callable[[Array], Array]) -> tuple[tf.Tensor, tf.Tensor]:
    """Tabulates a quantile function for `deviation`.

    Args:
      upper_deviation: float64 [n] tail probabilities in (0, 0.5] to float64 [n] distances d from
        the centre of symmetry, P(X - centre > d) = tail.

    Returns:
      Intercepts and slopes, float32 [cells] each.
    """
    cells = np.arange(OCTAVES * 2**CELL_BITS)
    octave, part = np.divmod(cells, 2**CELL_BITS)
    scale = 2.0 ** (octave - 32.0)
    start, middle, end = (
        upper_deviation(scale * (1.0 + (part + offset) * 2.0**-CELL_BITS))
        for offset in (0.0, 0.5, 1.0)
    )
    # The chord's largest excess is at the middle: half of it off either end centres the error.
    bases = start - 0.5 * (0.5 * (start + end) - middle)
    slopes = (end - start) * 2.0**-FRACTION_BITS
    # One cell more, for the tail of one half: reached only where a float32 rounds p up to 2**31.
    return (
        tf.constant(np.append(bases, 0.0), tf.float32),
        tf.constant(np.append(slopes, 0.0), tf.float32),
    )


def deviation(words: tf.Tensor, bases: tf.Tensor, slopes: tf.Tensor) -> tf.Tensor:
    """Deviations from the centre of symmetry.

    Args:
      words: uint32, any shape, uniform random bits.
      bases: float32 [cells], from `table`.
      slopes: float32 [cells], from `table`.

    Returns:
      float64, the shape of words, the same to the bit under every compiler.
    """
    tail = tf.bitcast((words & _u32(0x7FFFFFFF)) | _u32(1), tf.int32)
    pattern = tf.bitcast(tf.cast(tail, tf.float32), tf.uint32)
    cell = tf.bitwise.right_shift(pattern, _u32(FRACTION_BITS)) - _u32(127 << CELL_BITS)
    cell = tf.bitcast(cell, tf.int32)
    fraction = tf.bitcast(pattern & _u32((1 << FRACTION_BITS) - 1), tf.int32)
    magnitude = tf.cast(tf.gather(bases, cell), tf.float64) + tf.cast(
        fraction, tf.float64
    ) * tf.cast(tf.gather(slopes, cell), tf.float64)
    return tf.where(words > _u32(0x7FFFFFFF), -magnitude, magnitude)


def _u32(value: int) -> tf.Tensor:
    """A uint32 constant."""
    return tf.constant(value, tf.uint32)
