"""Convolutions in the form that each target runs fastest.

TensorFlow's own operations run near the machine's peak in graph mode and on GPUs. XLA:CPU has no
fast convolution inside a loop; there a convolution is a matrix product over patches ("im2col").
"""

from __future__ import annotations

import tensorflow as tf

from kernels import channels, target, windows


def conv2d(
    x: tf.Tensor,
    kernel: tf.Tensor,
    *,
    strides: windows.Pair = 1,
    padding: windows.Padding = "SAME",
    dilations: windows.Pair = 1,
    data_format: channels.DataFormat = "NHWC",
) -> tf.Tensor:
    """2-D cross-correlation, as `tf.nn.conv2d`.

    Args:
      x: [B, H, W, C] ("NHWC") or [B, C, H, W] ("NCHW"), floating point.
      kernel: [h, w, C, F], x's dtype.
      strides: the window's steps, one integer or (height, width).
      padding: "SAME" or "VALID".
      dilations: distance between the window's taps.
      data_format: "NHWC" or "NCHW".

    Returns:
      [B, out_h, out_w, F], or [B, F, out_h, out_w] for "NCHW"; x's dtype.

    Raises:
      ValueError: on a bad argument, or shapes that do not fit.
    """
    x, kernel = tf.convert_to_tensor(x), tf.convert_to_tensor(kernel)
    window = _window_of(x, kernel, strides, padding, dilations, data_format, "conv2d")
    here = target.current()
    # On CPUs TensorFlow's operation has no gradient for dilations, and for an empty x it gives the
    # wrong shape (oneDNN's form gives x's).
    served = here.device == "gpu" or (window.dilations == (1, 1) and x.shape[0] != 0)
    if served and not here.is_xla_cpu:
        return channels.apply_nhwc(
            lambda image: tf.nn.conv2d(
                image, kernel, window.strides, padding, dilations=window.dilations
            ),
            x,
            data_format,
        )
    return channels.apply_nhwc(
        lambda image: _conv2d_by_matmul(image, kernel, window), x, data_format
    )


def depthwise_conv2d(
    x: tf.Tensor,
    kernel: tf.Tensor,
    *,
    strides: windows.Pair = 1,
    padding: windows.Padding = "SAME",
    dilations: windows.Pair = 1,
    data_format: channels.DataFormat = "NHWC",
) -> tf.Tensor:
    """Convolves each channel with kernels of its own, as `tf.nn.depthwise_conv2d`.

    Args:
      x: [B, H, W, C] ("NHWC") or [B, C, H, W] ("NCHW"), floating point.
      kernel: [h, w, C, M], x's dtype.
      strides: the window's steps, one integer or (height, width).
      padding: "SAME" or "VALID".
      dilations: distance between the window's taps.
      data_format: "NHWC" or "NCHW".

    Returns:
      [B, out_h, out_w, C * M], or [B, C * M, out_h, out_w] for "NCHW"; x's dtype.

    Raises:
      ValueError: on a bad argument, or shapes that do not fit.
    """
    x, kernel = tf.convert_to_tensor(x), tf.convert_to_tensor(kernel)
    window = _window_of(x, kernel, strides, padding, dilations, data_format, "depthwise_conv2d")
    here = target.current()
    # TensorFlow's operation takes neither unequal strides nor strides with dilations.
    served = window.strides[0] == window.strides[1] and (1, 1) in (window.strides, window.dilations)
    served = served and (here.device == "gpu" or x.shape[0] != 0)
    if served and not here.is_xla_cpu:
        return channels.apply_nhwc(
            lambda image: tf.nn.depthwise_conv2d(
                image, kernel, [1, *window.strides, 1], padding, dilations=window.dilations
            ),
            x,
            data_format,
        )
    return channels.apply_nhwc(
        lambda image: _depthwise_by_taps(image, kernel, window), x, data_format
    )


def _conv2d_by_matmul(x: tf.Tensor, kernel: tf.Tensor, window: windows.Window) -> tf.Tensor:
    """im2col and one matrix product."""
    size = windows.image_size(x, "conv2d")
    places = window.output_size(size)
    padded = tf.pad(x, [(0, 0), *window.margins(size), (0, 0)])
    patches = tf.concat(window.taps(padded, places), axis=-1)
    inner = kernel.shape[0] * kernel.shape[1] * kernel.shape[2]
    y = tf.reshape(patches, [-1, inner]) @ tf.reshape(kernel, [inner, kernel.shape[3]])
    return tf.reshape(y, [-1, *places, kernel.shape[3]])


def _depthwise_by_taps(x: tf.Tensor, kernel: tf.Tensor, window: windows.Window) -> tf.Tensor:
    """A multiply-add a tap, all of them one fused loop under XLA."""
    size = windows.image_size(x, "depthwise_conv2d")
    places = window.output_size(size)
    height, width, inputs, multiplier = kernel.shape
    padded = tf.pad(x, [(0, 0), *window.margins(size), (0, 0)])
    factors = tf.unstack(tf.reshape(kernel, [height * width, inputs, multiplier]))
    taps = window.taps(padded, places)
    y = tf.add_n([tap[..., None] * f for tap, f in zip(taps, factors, strict=True)])
    return tf.reshape(y, [-1, *places, inputs * multiplier])


def _window_of(
    x: tf.Tensor,
    kernel: tf.Tensor,
    strides: windows.Pair,
    padding: windows.Padding,
    dilations: windows.Pair,
    data_format: channels.DataFormat,
    asker: str,
) -> windows.Window:
    layout = channels.layout_of(x, data_format, asker)
    if x.shape.rank != 4 or kernel.shape.rank != 4:
        raise ValueError(
            f"{asker}: x and kernel must have 4 axes, got shapes {x.shape} and {kernel.shape}"
        )
    if kernel.shape[2] != layout.size:
        raise ValueError(
            f"{asker}: kernel [h, w, inputs, outputs] must have x's {layout.size} channels as "
            f"inputs, got {kernel.shape}"
        )
    if kernel.dtype != x.dtype:
        raise ValueError(
            f"{asker}: kernel must have x's dtype {x.dtype.name}, got {kernel.dtype.name}; cast it"
        )
    size = (int(kernel.shape[0]), int(kernel.shape[1]))
    return windows.window(size, strides, padding, dilations, asker)
