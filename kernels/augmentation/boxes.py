"""Rectangles of pixels, one an example: cutout's holes and CutMix's patches."""

from __future__ import annotations

import tensorflow as tf


def box_mask(
    height: int, width: int, top: tf.Tensor, left: tf.Tensor, bottom: tf.Tensor, right: tf.Tensor
) -> tf.Tensor:
    """True inside each example's rectangle, which may reach beyond the image.

    Args:
      height: of the images, pixels.
      width: of the images, pixels.
      top: [B], the first row; of one numeric dtype with those below.
      left: [B], the first column.
      bottom: [B], the row after the last.
      right: [B], the column after the last.

    Returns:
      bool [B, H, W, 1].
    """
    rows = tf.range(height, dtype=top.dtype)
    columns = tf.range(width, dtype=left.dtype)
    inside_rows = tf.logical_and(rows >= top[:, tf.newaxis], rows < bottom[:, tf.newaxis])
    inside_columns = tf.logical_and(columns >= left[:, tf.newaxis], columns < right[:, tf.newaxis])
    return tf.logical_and(
        inside_rows[:, :, tf.newaxis, tf.newaxis], inside_columns[:, tf.newaxis, :, tf.newaxis]
    )


def cutout(
    images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor, *, size: int, value: float = 0.0
) -> tf.Tensor:
    """Overwrites a square about a pixel of each image, cut off at the border.

    DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout":
    the centre is any pixel, so the square may lie partly outside.

    Args:
      images: [B, H, W, C], any numeric dtype.
      rows: int32 [B], the centres' rows.
      columns: int32 [B], the centres' columns.
      size: side of the square, pixels; above 0.
      value: what is written.

    Returns:
      [B, H, W, C] of images' dtype.

    Raises:
      ValueError: if size is below 1.
    """
    if size < 1:
        raise ValueError(f"cutout: expected size above 0, got {size!r}")
    top, left = rows - size // 2, columns - size // 2
    _, height, width, _ = images.shape
    hole = box_mask(height, width, top, left, top + size, left + size)
    return tf.where(hole, tf.cast(value, images.dtype), images)
