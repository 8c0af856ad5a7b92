"""Causal attention: each position looks at itself and those before it."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from kernels import target

Gradient = Callable[[tf.Tensor], tuple[tf.Tensor, ...]]

# The dtypes whose softmax needs no wider one.
_FULL = (tf.float32, tf.float64)

# Finite, so that no row of it makes NaN; beyond any finite score of a float32 product.
_MASKED = -1e30


def causal_attention(
    q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, *, scale: float | None = None
) -> tf.Tensor:
    """`softmax(scale * q k^T + mask) v`, the mask hiding later positions.

    Vaswani et al., 2017, arXiv:1706.03762; as `keras.ops.dot_product_attention(is_causal=True)`
    with heads before tokens. The softmax is float32 for float16 and bfloat16.

    Args:
      q: floating [B, H, T, D].
      k: [B, H, T, D], q's dtype.
      v: [B, H, T, E], q's dtype.
      scale: multiplies the scores; `1 / sqrt(D)` when None.

    Returns:
      [B, H, T, E] in q's dtype.

    Raises:
      ValueError: if a shape, a dtype or `scale` does not fit.
    """
    q, k, v = (tf.convert_to_tensor(value) for value in (q, k, v))
    _check(q, k, v)
    if scale is None:
        scale = 1.0 / math.sqrt(q.shape[-1])
    elif not math.isfinite(scale):
        raise ValueError(f"causal_attention: scale must be finite, got {scale!r}")
    form = _by_columns if target.current().is_xla_cpu and q.dtype in _FULL else _by_rows
    return form(q, k, v, scale)


def _by_rows(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, scale: float) -> tf.Tensor:
    """Scores as [..., query, key]: the usual form, and the faster one in graph mode."""
    if q.dtype in _FULL:
        scores = tf.matmul(q, k, transpose_b=True) * scale
    else:
        # Scaled before the product: float16 overflows at 65504.
        scores = tf.cast(tf.matmul(q * tf.cast(scale, q.dtype), k, transpose_b=True), tf.float32)
    position = _positions(q)
    hidden = tf.cast(position[:, None] < position, scores.dtype)
    weights = tf.nn.softmax(scores + _MASKED * hidden)
    return tf.matmul(tf.cast(weights, q.dtype), v)


def _by_columns(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, scale: float) -> tf.Tensor:
    """Scores as [..., key, query]: XLA:CPU vectorizes a reduction along any axis but the last."""
    position = _positions(q)
    mask = _MASKED * tf.cast(position[:, None] > position, q.dtype)

    def attend(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        scores = tf.matmul(k, q, transpose_b=True) * scale + mask
        # The maximum only shifts: its gradient cancels.
        top = tf.stop_gradient(tf.reduce_max(scores, -2, keepdims=True))
        exponential = tf.exp(scores - top)
        weights = exponential * (1.0 / tf.reduce_sum(exponential, -2, keepdims=True))

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            in_weights = tf.matmul(v, upstream, transpose_b=True)
            along = tf.reduce_sum(in_weights * weights, -2, keepdims=True)
            in_scores = weights * (in_weights - along) * scale
            return (
                tf.matmul(in_scores, k, transpose_a=True),
                tf.matmul(in_scores, q),
                tf.matmul(weights, upstream),
            )

        return tf.matmul(weights, v, transpose_a=True), gradient

    return tf.custom_gradient(attend)(q, k, v)


def _positions(q: tf.Tensor) -> tf.Tensor:
    return tf.range(q.shape[-2] or tf.shape(q)[-2])


def _check(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) -> None:
    if not q.dtype.is_floating or k.dtype != q.dtype or v.dtype != q.dtype:
        raise ValueError(
            "causal_attention: q, k and v must have one floating dtype, got "
            f"{q.dtype.name}, {k.dtype.name} and {v.dtype.name}"
        )
    fits = q.shape.rank == 4 and q.shape[-1] is not None and v.shape.rank == 4
    if not (
        fits and k.shape.is_compatible_with(q.shape) and v.shape[:3].is_compatible_with(q.shape[:3])
    ):
        raise ValueError(
            "causal_attention: q and k must be [B, H, T, D] and v [B, H, T, E], got "
            f"{q.shape}, {k.shape} and {v.shape}"
        )
