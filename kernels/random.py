"""Counter-based random numbers: a hash of (seed, stream, global step, position, element).

Nothing is stateful and nothing depends on the batch around an example: the numbers of an example
are a function of the run's seed, a named stream, the global step and the example's position in the
global batch. A replica that computes its own slice of the positions gets the slice of the whole,
and a resumed run needs no generator state.

Bits come only from integer arithmetic, so eager, graph and XLA, CPU and GPU give the same ones.
Floats are made without a rounding in which compilers differ: XLA fuses a product and a sum into
one multiply-add, so a product that a sum follows is exact here; no logarithm, no cosine.

How the bits are made:

1. (seed, stream) become 64 bits: SplitMix64's finaliser over the seed plus a BLAKE2b digest of the
   stream's name.
2. step * 2**28 + position is the counter of a SplitMix64 sequence that starts there
   (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA; mixing
   constants of Stafford's variant 13): a 64-bit key an example. The map is one to one, so within a
   seed and stream no two examples of the first 2**36 steps and 2**28 positions share a key.
3. The element's index (a Weyl sequence) goes through two rounds of xor-shift and multiply
   (constants of Wellons' 2018 "triple32"/"lowbias32" search, the version of least bias 0.107), the
   lower half of the key entering before the first round and the upper half before the second.
   The map is one to one in the element: the words of one example are drawn without replacement
   from 2**32, which no example of fewer than about 2**16 elements can show.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kernels import inverse_cdf

Integer: TypeAlias = "int | tf.Tensor"

_MASK64 = (1 << 64) - 1
_GOLDEN64 = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd: SplitMix64's increment
_GOLDEN32 = 0x9E3779B9
_POSITION_BITS = 28
_LOW_WORDS = "/low"  # suffix of the stream that extends a 32-bit draw to 64 bits


def bits(
    seed: Integer, stream: str, step: Integer, positions: tf.Tensor, shape: Sequence[int] = ()
) -> tf.Tensor:
    """Uniform random 32-bit words.

    Args:
      seed: the run's seed, an int or an integer scalar tensor; taken modulo 2**64.
      stream: names what the numbers are for; two names give independent numbers.
      step: the global step, an int or an integer scalar tensor, 0 <= step < 2**36.
      positions: integer [B], each example's position in the global batch, below 2**28.
      shape: static shape of one example's numbers, at most 2**31 - 1 elements.

    Returns:
      uint32 [B, *shape].

    Raises:
      TypeError: if stream is not a str, or seed, step or positions are not integers.
      ValueError: if shape is not static, or positions is not a vector.
    """
    dimensions, count = _static_shape(shape)
    key = _example_keys(seed, stream, step, positions)
    low = tf.cast(key & _u64(0xFFFFFFFF), tf.uint32)
    high = tf.cast(_right64(key, 32), tf.uint32)
    element = tf.cast(tf.range(count), tf.uint32) * _u32(_GOLDEN32)
    words = low[:, tf.newaxis] ^ element
    words = (words ^ _right32(words, 16)) * _u32(0x21F0AAAD)
    words = words + high[:, tf.newaxis]
    words = (words ^ _right32(words, 15)) * _u32(0xD35A2D97)
    words = words ^ _right32(words, 15)
    if len(dimensions) == 1:
        return words
    batch = words.shape[0]
    if batch is None:
        batch = -1 if count else tf.shape(words)[0]  # -1 is not defined where nothing is
    return tf.reshape(words, [batch, *dimensions])


def uniform(
    seed: Integer,
    stream: str,
    step: Integer,
    positions: tf.Tensor,
    shape: Sequence[int] = (),
    *,
    minval: float = 0.0,
    maxval: float = 1.0,
    dtype: Any = tf.float32,
) -> tf.Tensor:
    """Uniform floats in [minval, maxval), on a grid of 2**24 values (float32).

    The grid has 2**53 values in float64, 2**11 in float16 and 2**8 in bfloat16: as many as keep
    every value exact on [0, 1). A float64 draw begins with the bits of the float32 draw.

    Args:
      seed: as for `bits`.
      stream: as for `bits`.
      step: as for `bits`.
      positions: as for `bits`.
      shape: as for `bits`.
      minval: lower bound, included; rounded to dtype.
      maxval: upper bound, excluded; rounded to dtype.
      dtype: float32, float64, float16 or bfloat16.

    Returns:
      dtype [B, *shape], the same to the bit under every compiler.

    Raises:
      ValueError: on another dtype, or bounds that are not finite with minval < maxval in dtype.
    """
    dtype = _float_dtype(dtype)
    number = dtype.as_numpy_dtype
    lower, upper = float(number(minval)), float(number(maxval))
    if not (math.isfinite(upper - lower) and lower < upper):
        raise ValueError(
            f"random.uniform: expected finite minval < maxval in {dtype.name}, "
            f"got minval={minval!r}, maxval={maxval!r}"
        )
    words = bits(seed, stream, step, positions, shape)
    if dtype != tf.float64:
        return _uniform_narrow(words, lower, upper, dtype)
    more = bits(seed, stream + _LOW_WORDS, step, positions, shape)
    return _uniform_float64(words, more, lower, upper)


def normal(
    seed: Integer,
    stream: str,
    step: Integer,
    positions: tf.Tensor,
    shape: Sequence[int] = (),
    *,
    dtype: Any = tf.float32,
) -> tf.Tensor:
    """Standard normal floats, by inversion of the cumulative distribution.

    The inverse is piecewise linear over 128 cells an octave of the tail probability, within 2e-6
    of the exact one; the largest magnitude is 6.23, that of a probability of 2**-32.

    Args:
      seed: as for `bits`.
      stream: as for `bits`.
      step: as for `bits`.
      positions: as for `bits`.
      shape: as for `bits`.
      dtype: float32, float64, float16 or bfloat16; each is the rounding of one float64 value.

    Returns:
      dtype [B, *shape], the same to the bit under every compiler.

    Raises:
      ValueError: on another dtype.
    """
    dtype = _float_dtype(dtype)
    words = bits(seed, stream, step, positions, shape)
    value = inverse_cdf.deviation(words, *inverse_cdf.table(_upper_quantile))
    if dtype in (tf.float16, tf.bfloat16):
        value = tf.cast(value, tf.float32)  # executors round float64 to the halves differently
    return tf.cast(value, dtype)


def bernoulli_mask(
    seed: Integer,
    stream: str,
    step: Integer,
    positions: tf.Tensor,
    shape: Sequence[int] = (),
    *,
    keep: float,
) -> tf.Tensor:
    """True with probability `keep`, by comparing integers.

    Args:
      seed: as for `bits`.
      stream: as for `bits`.
      step: as for `bits`.
      positions: as for `bits`.
      shape: as for `bits`.
      keep: the probability, in [0, 1], rounded to a multiple of 2**-32; 0 and 1 are exact.

    Returns:
      bool [B, *shape].

    Raises:
      ValueError: if keep is outside [0, 1].
    """
    if not 0.0 <= keep <= 1.0:
        raise ValueError(f"random.bernoulli_mask: expected keep in [0, 1], got {keep!r}")
    words = bits(seed, stream, step, positions, shape)
    threshold = round(keep * 2.0**32)
    if threshold == 1 << 32:
        return tf.ones_like(words, tf.bool)
    return words < _u32(threshold)


def integers(
    seed: Integer,
    stream: str,
    step: Integer,
    positions: tf.Tensor,
    shape: Sequence[int] = (),
    *,
    minval: int = 0,
    maxval: int,
) -> tf.Tensor:
    """Uniform integers in [minval, maxval), by the upper half of a 64-bit product.

    With n = maxval - minval, each value's probability is within 2**-32 of 1 / n.

    Args:
      seed: as for `bits`.
      stream: as for `bits`.
      step: as for `bits`.
      positions: as for `bits`.
      shape: as for `bits`.
      minval: lower bound, included.
      maxval: upper bound, excluded.

    Returns:
      int32 [B, *shape].

    Raises:
      ValueError: unless minval < maxval, both within int32.
    """
    if not -(2**31) <= minval < maxval <= 2**31:
        raise ValueError(
            "random.integers: expected minval < maxval within int32, "
            f"got minval={minval!r}, maxval={maxval!r}"
        )
    words = tf.cast(bits(seed, stream, step, positions, shape), tf.uint64)
    scaled = _right64(words * _u64(maxval - minval), 32)
    return tf.cast(tf.cast(scaled, tf.int64) + minval, tf.int32)


def _uniform_narrow(words: tf.Tensor, lower: float, upper: float, dtype: Any) -> tf.Tensor:
    """The leading bits of the words as float32, float16 or bfloat16 in [lower, upper)."""
    number = dtype.as_numpy_dtype
    digits = {tf.float32: 24, tf.float16: 11, tf.bfloat16: 8}[dtype]
    # The words fit an int32 now, whose conversion to float is one vector instruction.
    grid = tf.cast(tf.bitcast(_right32(words, 32 - digits), tf.int32), tf.float32)
    if lower == 0.0:
        # One multiplication, by a number of dtype: 2**-digits only scales.
        return tf.cast(grid * np.float32(upper * 2.0**-digits), dtype)
    # The draw's digits times the span's are exact in float64 (in float32 for the halves).
    wide = np.float64 if dtype == tf.float32 else np.float32
    span = float(number(upper - lower)) * 2.0**-digits
    value = tf.cast(tf.cast(grid, wide) * wide(span) + wide(lower), dtype)
    return tf.minimum(value, np.nextafter(number(upper), number(lower)))


def _uniform_float64(high: tf.Tensor, low: tf.Tensor, lower: float, upper: float) -> tf.Tensor:
    """53 bits of two words as a float64 in [lower, upper)."""
    # 27 and 26 bits, so that products with halves of the span are exact.
    first = tf.cast(_right32(high, 5), tf.float64) * 2.0**-27
    second = (tf.cast(high & _u32(31), tf.float64) * 2.0**21) + tf.cast(
        _right32(low, 11), tf.float64
    )
    second = second * 2.0**-53
    if lower == 0.0:
        return (first + second) * upper
    span_first, span_second = _split_float64(upper - lower)
    # Exact products, so that a fused sum is the same; the constant last, since TensorFlow's graph
    # optimiser moves constants within chains of sums.
    value = second * span_second
    value = value + first * span_second
    value = value + second * span_first
    value = value + first * span_first
    value = value + lower
    return tf.minimum(value, np.nextafter(upper, lower))


def _split_float64(value: float) -> tuple[float, float]:
    """Two floats of at most 26 significant bits that add up to value (Veltkamp's splitting)."""
    mantissa, exponent = math.frexp(value)
    first = math.ldexp(round(mantissa * 2.0**26), exponent - 26)
    return first, value - first


def _upper_quantile(tail: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The z with P(Z > z) = tail for tail in (0, 0.51), by Newton's method in float64."""
    tail = np.asarray(tail, np.float64)
    root = np.sqrt(-2.0 * np.log(tail))
    # Abramowitz and Stegun 26.2.23, within 4.5e-4; then Newton on log P.
    z: npt.NDArray[np.float64] = root - (2.515517 + root * (0.802853 + root * 0.010328)) / (
        1.0 + root * (1.432788 + root * (0.189269 + root * 0.001308))
    )
    complement = np.vectorize(math.erfc, otypes=[np.float64])
    for _ in range(3):
        upper = 0.5 * complement(z / math.sqrt(2.0))
        density = np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
        z = z + (np.log(upper) - np.log(tail)) * upper / density
    return z


def _example_keys(seed: Integer, stream: str, step: Integer, positions: tf.Tensor) -> tf.Tensor:
    """uint64 [B], one key an example."""
    if not isinstance(stream, str):
        raise TypeError(f"random: expected stream to be a str, got {type(stream).__name__}")
    positions = tf.convert_to_tensor(positions)
    if not positions.dtype.is_integer:
        raise TypeError(f"random: expected integer positions, got {positions.dtype.name}")
    if positions.shape.rank != 1:
        raise ValueError(f"random: expected positions of shape [B], got {positions.shape}")
    name = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")
    start = _mix64(_add64(_word64(seed, "seed"), name))
    stride = (_GOLDEN64 << _POSITION_BITS) & _MASK64
    start = _add64(start, _multiply64(_word64(step, "step"), stride))
    counter = tf.cast(positions, tf.uint64) * _u64(_GOLDEN64)
    return _mix64(_add64(counter, start))


def _word64(value: Integer, name: str) -> Integer:
    """An int modulo 2**64, or a uint64 tensor of the same bits."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"random: expected {name} to be an integer, got a bool")
    if isinstance(value, (int, np.integer)):
        return int(value) & _MASK64
    tensor = tf.convert_to_tensor(value)
    if not tensor.dtype.is_integer:
        raise TypeError(f"random: expected {name} to be an integer, got {tensor.dtype.name}")
    if tensor.shape.rank not in (0, None):
        raise ValueError(f"random: expected {name} to be a scalar, got shape {tensor.shape}")
    return tf.cast(tensor, tf.uint64)


def _add64(left: Integer, right: Integer) -> Integer:
    """Left plus right modulo 2**64; an int if both are."""
    if isinstance(left, int) and isinstance(right, int):
        return (left + right) & _MASK64
    tensors = (_u64(word) if isinstance(word, int) else word for word in (left, right))
    return tf.add(*tensors)


def _multiply64(left: Integer, right: int) -> Integer:
    """Left times right modulo 2**64; an int if left is."""
    if isinstance(left, int):
        return (left * right) & _MASK64
    return left * _u64(right)


def _xor_shift64(value: Integer, shift: int) -> Integer:
    """Value ^ (value >> shift), of an int or a uint64 tensor."""
    return value ^ (value >> shift if isinstance(value, int) else _right64(value, shift))


def _mix64(value: Integer) -> Integer:
    """SplitMix64's finaliser: one to one on 64 bits; an int if value is."""
    value = _multiply64(_xor_shift64(value, 30), 0xBF58476D1CE4E5B9)
    value = _multiply64(_xor_shift64(value, 27), 0x94D049BB133111EB)
    return _xor_shift64(value, 31)


def _static_shape(shape: Sequence[int]) -> tuple[list[int], int]:
    """The dimensions and their product."""
    try:
        dimensions = [operator.index(size) for size in shape]
    except TypeError as error:
        raise ValueError(f"random: expected a static shape of one example, got {shape}") from error
    count = math.prod(dimensions)
    if min(dimensions, default=0) < 0 or count >= 2**31:
        raise ValueError(f"random: expected below 2**31 elements an example, got shape {shape}")
    return dimensions, count


def _float_dtype(dtype: Any) -> Any:
    """The dtype as a tf.DType, if it is a float that can be drawn."""
    dtype = tf.as_dtype(dtype)
    if dtype not in (tf.float32, tf.float64, tf.float16, tf.bfloat16):
        raise ValueError(
            f"random: expected dtype float32, float64, float16 or bfloat16, got {dtype.name}"
        )
    return dtype


def _right64(value: tf.Tensor, shift: int) -> tf.Tensor:
    """A logical right shift of uint64."""
    return tf.bitwise.right_shift(value, _u64(shift))


def _right32(value: tf.Tensor, shift: int) -> tf.Tensor:
    """A logical right shift of uint32."""
    return tf.bitwise.right_shift(value, _u32(shift))


def _u64(value: int) -> tf.Tensor:
    """A uint64 constant."""
    return tf.constant(value, tf.uint64)


def _u32(value: int) -> tf.Tensor:
    """A uint32 constant."""
    return tf.constant(value, tf.uint32)
