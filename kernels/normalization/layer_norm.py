"""Layer norm and RMS norm over the last axis, with their backward passes in closed form.

On a CPU the means over a row are products with a vector: both compilers run a matrix product in
vector instructions, and a sum along the fastest axis in scalar ones. On a GPU they are plain
reductions. float16 and bfloat16 are normalised in float32, and come back in their own dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from kernels import target

Gradient = Callable[[tf.Tensor], tuple[tf.Tensor, ...]]


def layer_norm(
    x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, *, epsilon: float = 1e-6
) -> tf.Tensor:
    """`(x - mean) / sqrt(variance + epsilon) * scale + offset`, moments over the last axis.

    Ba et al., 2016, arXiv:1607.06450; as `keras.layers.LayerNormalization(axis=-1)`. The variance
    is the mean square about the mean, and the mean is summed about a value of the row's own, so a
    large mean costs only the digits that it takes from `x` itself: with mean 1e4 and deviation 1,
    float32 is right to 1e-5.

    Args:
      x: floating [..., K].
      scale: floating [K].
      offset: floating [K].
      epsilon: added to the variance; positive.

    Returns:
      [..., K] in x's dtype.

    Raises:
      ValueError: if a shape, a dtype or `epsilon` does not fit.
    """
    x, (scale, offset) = _checked("layer_norm", x, {"scale": scale, "offset": offset}, epsilon)

    def normalize(
        rows: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor
    ) -> tuple[tf.Tensor, Gradient]:
        # About a value of the row: a large mean then costs the sum no digits.
        shifted = rows - tf.stop_gradient(rows[:, :1])
        centered = shifted - _row_mean(shifted)
        inverse_deviation = tf.math.rsqrt(_row_mean(tf.square(centered)) + epsilon)
        normalized = centered * inverse_deviation

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            product = upstream * normalized
            along_ones = _row_mean(upstream, scale)
            along_x = _row_mean(product, scale)
            in_rows = inverse_deviation * (upstream * scale - along_ones - normalized * along_x)
            return in_rows, _column_sum(product), _column_sum(upstream)

        return normalized * scale + offset, gradient

    return _over_rows(tf.custom_gradient(normalize), x, scale, offset)


def rms_norm(x: tf.Tensor, scale: tf.Tensor, *, epsilon: float = 1e-6) -> tf.Tensor:
    """`x / sqrt(mean(x**2) + epsilon) * scale`, the mean over the last axis.

    Zhang and Sennrich, 2019, arXiv:1910.07467; as `keras.layers.RMSNormalization(axis=-1)`.

    Args:
      x: floating [..., K].
      scale: floating [K].
      epsilon: added to the mean square; positive.

    Returns:
      [..., K] in x's dtype.

    Raises:
      ValueError: if a shape, a dtype or `epsilon` does not fit.
    """
    x, (scale,) = _checked("rms_norm", x, {"scale": scale}, epsilon)

    def normalize(rows: tf.Tensor, scale: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        inverse_rms = tf.math.rsqrt(_row_mean(tf.square(rows)) + epsilon)
        normalized = rows * inverse_rms

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            product = upstream * normalized
            in_rows = inverse_rms * (upstream * scale - normalized * _row_mean(product, scale))
            return in_rows, _column_sum(product)

        return normalized * scale, gradient

    return _over_rows(tf.custom_gradient(normalize), x, scale)


def _checked(
    norm: str, x: tf.Tensor, parameters: dict[str, tf.Tensor], epsilon: float
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """`x` as a tensor, the parameters in the dtype that the norm is computed in."""
    x = tf.convert_to_tensor(x)
    if not x.dtype.is_floating:
        raise ValueError(f"{norm}: x must be floating, got {x.dtype.name}")
    if not x.shape.rank or x.shape[-1] is None:
        raise ValueError(f"{norm}: x must be [..., K] with K known, got {x.shape}")
    if not 0.0 < epsilon < math.inf:
        raise ValueError(f"{norm}: epsilon must be finite and above 0, got {epsilon!r}")
    dtype = tf.float64 if x.dtype == tf.float64 else tf.float32
    cast = {name: tf.cast(value, dtype) for name, value in parameters.items()}
    for name, value in cast.items():
        if not value.shape.is_compatible_with(x.shape[-1:]):
            raise ValueError(
                f"{norm}: {name} must be {x.shape[-1:]} as x's last axis, got {value.shape}"
            )
    return x, list(cast.values())


def _over_rows(
    normalize: Callable[..., tf.Tensor], x: tf.Tensor, *parameters: tf.Tensor
) -> tf.Tensor:
    """`normalize` on `x` as a matrix of rows in the parameters' dtype, shaped and cast back."""
    rows = tf.reshape(tf.cast(x, parameters[0].dtype), [-1, x.shape[-1]])
    shape = x.shape if x.shape.is_fully_defined() else tf.shape(x)
    return tf.cast(tf.reshape(normalize(rows, *parameters), shape), x.dtype)


def _row_mean(rows: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
    """The mean over each row, [N, 1]; with weights [K], that of `rows * weights`."""
    # Not on a GPU: its matrix products may round float32 to 10 bits (TF32).
    if target.current().device == "cpu":
        size = rows.shape[-1]
        column = tf.fill([size, 1], tf.constant(1.0 / size, rows.dtype))
        return tf.matmul(rows, column if weights is None else column * weights[:, None])
    return tf.reduce_mean(rows if weights is None else rows * weights, -1, keepdims=True)


def _column_sum(rows: tf.Tensor) -> tf.Tensor:
    """The sum over the rows, [K]."""
    # XLA fuses this sum with the product before it. In graph mode a product by oneDNN is faster.
    now = target.current()
    if now.device == "cpu" and now.compiler != "xla":
        return tf.squeeze(tf.matmul(tf.ones([1, tf.shape(rows)[0]], rows.dtype), rows), 0)
    return tf.reduce_sum(rows, 0)
