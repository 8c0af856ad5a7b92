"""Brightness, contrast and saturation, one factor an example."""

from __future__ import annotations

import tensorflow as tf

# Luma of ITU-R BT.601, as tf.image.rgb_to_grayscale and torchvision have it.
_LUMA = (0.2989, 0.587, 0.114)


def adjust_brightness(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Multiplies each image by its factor (torchvision's adjust_brightness, not clipped).

    Args:
      images: float [B, H, W, C].
      factors: float [B].

    Returns:
      [B, H, W, C] of images' dtype.
    """
    return images * _each(factors, images)


def adjust_contrast(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Scales each image about its channels' means: (x - mean) * factor + mean.

    tf.image.adjust_contrast, one factor an example. The means of float16 and bfloat16 images are
    taken in float32.

    Args:
      images: float [B, H, W, C].
      factors: float [B].

    Returns:
      [B, H, W, C] of images' dtype.
    """
    wide = images if images.dtype in (tf.float32, tf.float64) else tf.cast(images, tf.float32)
    mean = tf.cast(tf.reduce_mean(wide, [1, 2], keepdims=True), images.dtype)
    return (images - mean) * _each(factors, images) + mean


def adjust_saturation(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Blends each image with its grey version: (x - grey) * factor + grey, not clipped.

    torchvision's adjust_saturation; grey is 0.2989 R + 0.587 G + 0.114 B.

    Args:
      images: float [B, H, W, 3], RGB.
      factors: float [B].

    Returns:
      [B, H, W, 3] of images' dtype.

    Raises:
      ValueError: unless there are 3 channels.
    """
    if images.shape[-1] != 3:
        raise ValueError(f"adjust_saturation: expected images [B, H, W, 3], got {images.shape}")
    # Sums of slices: a product with a vector of 3 would be a matrix product, and slow.
    grey = sum(images[..., c : c + 1] * weight for c, weight in enumerate(_LUMA))
    return (images - grey) * _each(factors, images) + grey


def _each(factors: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """The factors as [B, 1, 1, 1] of images' dtype."""
    return tf.cast(factors, images.dtype)[:, tf.newaxis, tf.newaxis, tf.newaxis]
