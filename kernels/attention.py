"""Causal attention: each position looks at itself and those before it."""

from __future__ import annotations

import math

import tensorflow as tf

# Finite, so that no row of it makes NaN; past any score of a float32 product that is one itself.
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
    length = q.shape[-2] or tf.shape(q)[-2]
    half = q.dtype in (tf.float16, tf.bfloat16)
    softmax_dtype = tf.float32 if half else q.dtype
    position = tf.range(length)
    # Constant for both compilers: folded in graph, in XLA part of the pass that adds it.
    hidden = tf.cast(position[:, None] < position, softmax_dtype)
    if half:
        # Scaled before the product: float16 overflows at 65504.
        scores = tf.cast(tf.matmul(q * tf.cast(scale, q.dtype), k, transpose_b=True), tf.float32)
    else:
        scores = tf.matmul(q, k, transpose_b=True) * scale
    weights = tf.nn.softmax(scores + _MASKED * hidden)
    return tf.matmul(tf.cast(weights, q.dtype), v)


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
