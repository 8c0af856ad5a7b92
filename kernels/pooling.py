"""Pooling over windows in the form that each target runs fastest."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from kernels import channels, target, windows


def max_pool2d(
    x: tf.Tensor,
    size: windows.Pair,
    strides: windows.Pair | None = None,
    padding: windows.Padding = "VALID",
    data_format: channels.DataFormat = "NHWC",
) -> tf.Tensor:
    """The maximum of each window, as `tf.nn.max_pool2d`.

    Where a window holds its maximum more than once, the gradient goes to the first one, row by
    row, as it does in TensorFlow.

    Args:
      x: [B, H, W, C] ("NHWC") or [B, C, H, W] ("NCHW"), floating point.
      size: the window's, one integer or (height, width).
      strides: its steps; `size` when None.
      padding: "SAME" or "VALID".
      data_format: "NHWC" or "NCHW".

    Returns:
      [B, out_h, out_w, C], or [B, C, out_h, out_w] for "NCHW"; x's dtype.

    Raises:
      ValueError: on a bad argument or rank.
    """
    x = tf.convert_to_tensor(x)
    window = _window_of(x, size, strides, padding, data_format, "max_pool2d")
    if target.current().is_xla_cpu:
        return channels.apply_nhwc(lambda image: _max_by_taps(image, window), x, data_format)
    return channels.apply_nhwc(
        lambda image: tf.nn.max_pool2d(image, window.size, window.strides, padding), x, data_format
    )


def avg_pool2d(
    x: tf.Tensor,
    size: windows.Pair,
    strides: windows.Pair | None = None,
    padding: windows.Padding = "VALID",
    data_format: channels.DataFormat = "NHWC",
) -> tf.Tensor:
    """The mean of each window, padding not counted, as `tf.nn.avg_pool2d`.

    Args:
      x: [B, H, W, C] ("NHWC") or [B, C, H, W] ("NCHW"), floating point.
      size: the window's, one integer or (height, width).
      strides: its steps; `size` when None.
      padding: "SAME" or "VALID".
      data_format: "NHWC" or "NCHW".

    Returns:
      [B, out_h, out_w, C], or [B, C, out_h, out_w] for "NCHW"; x's dtype.

    Raises:
      ValueError: on a bad argument or rank.
    """
    x = tf.convert_to_tensor(x)
    window = _window_of(x, size, strides, padding, data_format, "avg_pool2d")
    if target.current().is_xla_cpu:
        return channels.apply_nhwc(lambda image: _mean_by_taps(image, window), x, data_format)
    return channels.apply_nhwc(
        lambda image: tf.nn.avg_pool2d(image, window.size, window.strides, padding), x, data_format
    )


def _max_by_taps(x: tf.Tensor, window: windows.Window) -> tf.Tensor:
    """Maximum of strided slices; the gradient goes to the tap that had the maximum."""
    size = windows.image_size(x, "max_pool2d")
    places = window.output_size(size)
    margins = [(0, 0), *window.margins(size), (0, 0)]

    def forward(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        lowest = tf.constant(-float("inf"), x.dtype)
        taps = window.taps(tf.pad(x, margins, constant_values=lowest), places)
        y, winner = taps[0], tf.zeros_like(taps[0], tf.int32)
        for number, tap in enumerate(taps[1:], start=1):
            winner = tf.where(tap > y, number, winner)
            y = tf.maximum(y, tap)

        def backward(dy: tf.Tensor) -> tf.Tensor:
            zero = tf.zeros([], dy.dtype)
            parts = [tf.where(winner == number, dy, zero) for number in range(len(taps))]
            return window.spread(parts, size)

        return y, backward

    return tf.custom_gradient(forward)(x)


def _mean_by_taps(x: tf.Tensor, window: windows.Window) -> tf.Tensor:
    """Mean of strided slices; padding is not counted."""
    size = windows.image_size(x, "avg_pool2d")
    places = window.output_size(size)
    rows, columns = window.counts(size)
    inverse = tf.constant([[[1.0 / (r * c)] for c in columns] for r in rows], x.dtype)

    def forward(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        padded = tf.pad(x, [(0, 0), *window.margins(size), (0, 0)])

        def backward(dy: tf.Tensor) -> tf.Tensor:
            return window.spread([dy * inverse] * len(window.offsets()), size)

        return tf.add_n(window.taps(padded, places)) * inverse, backward

    return tf.custom_gradient(forward)(x)


def _window_of(
    x: tf.Tensor,
    size: windows.Pair,
    strides: windows.Pair | None,
    padding: windows.Padding,
    data_format: channels.DataFormat,
    asker: str,
) -> windows.Window:
    channels.layout_of(x, data_format, asker)
    if x.shape.rank != 4:
        raise ValueError(f"{asker}: x must have 4 axes, got shape {x.shape}")
    return windows.window(size, size if strides is None else strides, padding, 1, asker)
