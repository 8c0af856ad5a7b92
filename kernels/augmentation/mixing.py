"""Mixup and CutMix: an example and its partner become one, with a weight for the labels.

The caller brings the partners (the feed gathers them, another example of the global batch or of
the epoch), so a replica needs no other replica's examples.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from kernels import inverse_cdf, random
from kernels.augmentation import boxes
from kernels.embedding import in_range
from kernels.random import Integer


def mixup(
    images: tf.Tensor,
    partners: tf.Tensor,
    *,
    alpha: float,
    seed: Integer,
    step: Integer,
    positions: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Weighted means of images and partners, the weight from Beta(alpha, alpha) an example.

    Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization" (there one weight a batch).

    Args:
      images: float [B, ...].
      partners: float [B, ...], of images' shape and dtype.
      alpha: the Beta distribution's two parameters; above 0.
      seed: as for `kernels.random.bits`.
      step: as for `kernels.random.bits`.
      positions: as for `kernels.random.bits`.

    Returns:
      The mixed images, and float32 [B], the share of the image's own label (`mixed_one_hot`).

    Raises:
      ValueError: if alpha is not in (0, 100], or the shapes differ.
      TypeError: if images are not floats of the partners' dtype.
    """
    _check_pair(images, partners, "mixup")
    if not images.dtype.is_floating:
        raise TypeError(f"mixup: expected float images, got {images.dtype.name}")
    share = beta(seed, "mixup/share", step, positions, alpha=alpha)
    # The half types are weighted in float32: their 8 or 11 bits would lose those of the weight.
    compute = tf.float64 if images.dtype == tf.float64 else tf.float32
    weight = tf.reshape(tf.cast(share, compute), [-1] + [1] * (images.shape.rank - 1))
    own, other = tf.cast(images, compute), tf.cast(partners, compute)
    return tf.cast(other + (own - other) * weight, images.dtype), share


def cutmix(
    images: tf.Tensor,
    partners: tf.Tensor,
    *,
    alpha: float,
    seed: Integer,
    step: Integer,
    positions: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Images with a rectangle of their partners' pixels, its area from Beta(alpha, alpha).

    Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features": the sides are sqrt(1 - share) of the image's, the centre uniform, and the share
    counted again from the pixels that lie inside.

    Args:
      images: [B, H, W, C], any numeric dtype.
      partners: [B, H, W, C], of images' dtype.
      alpha: the Beta distribution's two parameters; above 0.
      seed: as for `kernels.random.bits`.
      step: as for `kernels.random.bits`.
      positions: as for `kernels.random.bits`.

    Returns:
      The mixed images, and float32 [B], the share of pixels that are the image's own.

    Raises:
      ValueError: if alpha is not in (0, 100], or the shapes differ.
      TypeError: if the dtypes differ.
    """
    _check_pair(images, partners, "cutmix")
    _, height, width, _ = images.shape
    side = tf.sqrt(1.0 - beta(seed, "cutmix/share", step, positions, alpha=alpha))
    centers = random.uniform(seed, "cutmix/center", step, positions, (2,))
    edges = []
    for axis, size in enumerate((height, width)):
        length = tf.cast(side * float(size), tf.int32)
        center = tf.cast(centers[:, axis] * float(size), tf.int32)
        low = center - length // 2
        edges.append((tf.maximum(low, 0), tf.minimum(low + length, size)))
    (top, bottom), (left, right) = edges
    area = tf.cast((bottom - top) * (right - left), tf.float32)
    patch = boxes.box_mask(height, width, top, left, bottom, right)
    # One division by a constant, so that every compiler rounds the share alike.
    share = (float(height * width) - area) / float(height * width)
    return tf.where(patch, partners, images), share


def mixed_one_hot(
    labels: tf.Tensor, partner_labels: tf.Tensor, share: tf.Tensor, classes: int, dtype: Any = None
) -> tf.Tensor:
    """One-hot labels mixed as the images were.

    Args:
      labels: integer [B], in [0, classes).
      partner_labels: integer [B], in [0, classes).
      share: float [B], the weight of labels; the rest is the partners'.
      classes: number of classes.
      dtype: of the result; share's if None.

    Returns:
      [B, classes], each row's sum 1; a row of NaN where a label is out of range.
    """
    known = in_range(labels, classes) & in_range(partner_labels, classes)
    share = tf.cast(share, dtype or share.dtype)
    share = tf.where(known, share, tf.constant(math.nan, share.dtype))[:, tf.newaxis]
    own = tf.one_hot(labels, classes, dtype=share.dtype)
    other = tf.one_hot(partner_labels, classes, dtype=share.dtype)
    return other + (own - other) * share


def beta(
    seed: Integer, stream: str, step: Integer, positions: tf.Tensor, *, alpha: float
) -> tf.Tensor:
    """Draws from the symmetric Beta(alpha, alpha), by inversion.

    The quantile function is tabulated in float64 while tracing and read piecewise linearly
    (`kernels.inverse_cdf`): within 2e-5 of the exact one for alpha >= 0.1, within 1e-3 below.

    Args:
      seed: as for `kernels.random.bits`.
      stream: as for `kernels.random.bits`.
      step: as for `kernels.random.bits`.
      positions: as for `kernels.random.bits`.
      alpha: both parameters; in (0, 100].

    Returns:
      float32 [B] in [0, 1], the same to the bit under every compiler.

    Raises:
      ValueError: if alpha is not in (0, 100].
    """
    if not 0.0 < alpha <= 100.0:
        raise ValueError(f"beta: expected alpha in (0, 100], got {alpha!r}")

    def upper_deviation(tail: inverse_cdf.Array) -> inverse_cdf.Array:
        return 0.5 - _lower_quantile(tail, alpha)

    words = random.bits(seed, stream, step, positions)
    share = 0.5 + inverse_cdf.deviation(words, *inverse_cdf.table(upper_deviation))
    return tf.clip_by_value(tf.cast(share, tf.float32), 0.0, 1.0)


def _lower_quantile(tail: inverse_cdf.Array, alpha: float) -> inverse_cdf.Array:
    """The x in [0, 0.5] with I_x(alpha, alpha) = tail, by Newton's method on the logarithms.

    I is the regularised incomplete beta function (DLMF 8.17), by the series of positive terms
    x^a (1 - x)^a / (a B(a, a)) * F(2 a, 1; a + 1; x) (DLMF 8.17.8).
    """
    constant = math.log(alpha) + 2 * math.lgamma(alpha) - math.lgamma(2 * alpha)
    target = np.log(np.minimum(tail, 0.5))
    # The logarithm of I is concave in that of x, so that from the second step on Newton's method
    # approaches the root from one side.
    log_x = np.minimum((target + constant) / alpha, math.log(0.5))
    for _ in range(60):
        x = np.exp(log_x)
        series, term, n = np.ones_like(x), np.ones_like(x), 0
        while term.max() > 1e-17 * series.min():
            term = term * x * (2 * alpha + n) / (alpha + 1 + n)
            series, n = series + term, n + 1
        value = alpha * (log_x + np.log1p(-x)) - constant + np.log(series)
        # d log I / d log x = x^a (1 - x)^(a - 1) / (B I) = alpha / ((1 - x) * series)
        move = (target - value) * (1.0 - x) * series / alpha
        log_x = np.minimum(log_x + move, math.log(0.5))
        if np.abs(move).max() < 1e-13:
            break
    return np.exp(log_x)


def _check_pair(images: tf.Tensor, partners: tf.Tensor, name: str) -> None:
    """Raises unless partners can be mixed with images."""
    if images.dtype != partners.dtype:
        raise TypeError(
            f"{name}: expected partners of images' dtype {images.dtype.name}, "
            f"got {partners.dtype.name}"
        )
    if not images.shape.is_compatible_with(partners.shape):
        raise ValueError(
            f"{name}: expected partners of images' shape {images.shape}, got {partners.shape}"
        )
