"""Affine maps of images by the names people use: rotation, shift, shear, zoom, flip, crop."""

from __future__ import annotations

import math
from typing import TypeAlias

import tensorflow as tf

Parameter: TypeAlias = "float | tf.Tensor"


def affine_matrices(
    height: int,
    width: int,
    *,
    rotation: Parameter = 0.0,
    shift_x: Parameter = 0.0,
    shift_y: Parameter = 0.0,
    shear: Parameter = 0.0,
    zoom_x: Parameter = 1.0,
    zoom_y: Parameter = 1.0,
    window_x: Parameter = 0.0,
    window_y: Parameter = 0.0,
    window_width: Parameter = 1.0,
    window_height: Parameter = 1.0,
) -> tf.Tensor:
    """Matrices of rotation, shift, shear, zoom about the centre, seen through a window.

    With coordinates from the image's centre, an output place is scaled by the window's size and
    moved by its offset, then goes through rotation @ shift @ shear @ zoom, each as
    keras.src.legacy.preprocessing.image.apply_affine_transform has it (its theta, (tx, ty), shear,
    (zx, zy), with tx along x). A negative window size is a flip of the output.

    Args:
      height: of the images, pixels.
      width: of the images, pixels.
      rotation: radians, float or [B], as are all that follow.
      shift_x: pixels.
      shift_y: pixels.
      shear: radians.
      zoom_x: width of what is seen over the image's; above 1 shrinks the image.
      zoom_y: height likewise.
      window_x: offset of the window's centre, pixels.
      window_y: likewise.
      window_width: share of the width; negative flips left and right.
      window_height: share of the height; negative flips top and bottom.

    Returns:
      [B, 6] in the parameters' dtype; float32 [6] if every parameter is a float.
    """
    cosine, sine = _cosine(rotation), _sine(rotation)
    # rotation @ shear has the closed form [[cos r, -sin(r + s)], [sin r, cos(r + s)]].
    tilt = rotation if isinstance(shear, float) and shear == 0.0 else rotation + shear
    a0, a1 = cosine * zoom_x, -_sine(tilt) * zoom_y
    b0, b1 = sine * zoom_x, _cosine(tilt) * zoom_y
    offset_x = cosine * shift_x - sine * shift_y + a0 * window_x + a1 * window_y
    offset_y = sine * shift_x + cosine * shift_y + b0 * window_x + b1 * window_y
    a0, a1 = a0 * window_width, a1 * window_height
    b0, b1 = b0 * window_width, b1 * window_height
    center_x, center_y = (width - 1) / 2, (height - 1) / 2
    a2 = (center_x - (a0 * center_x + a1 * center_y)) + offset_x
    b2 = (center_y - (b0 * center_x + b1 * center_y)) + offset_y
    return _stack([a0, a1, a2, b0, b1, b2])


def _stack(entries: list[Parameter]) -> tf.Tensor:
    """The entries side by side, floats repeated to the tensors' [B]."""
    tensors = [entry for entry in entries if not isinstance(entry, float)]
    if not tensors:
        return tf.constant(entries, tf.float32)
    zeros = tf.zeros_like(tensors[0])
    return tf.stack([entry + zeros if isinstance(entry, float) else entry for entry in entries], -1)


def _cosine(angle: Parameter) -> Parameter:
    """Cosine, computed while tracing if it is a float."""
    return math.cos(angle) if isinstance(angle, float) else tf.cos(angle)


def _sine(angle: Parameter) -> Parameter:
    """Sine, computed while tracing if it is a float."""
    return math.sin(angle) if isinstance(angle, float) else tf.sin(angle)
