"""One affine resample of a batch of images: gathers under XLA, TensorFlow's own kernel in graph.

A matrix (a0, a1, a2, b0, b1, b2) sends the place (x, y) of an output pixel, in pixels from the
centre of the top left one, to the input place (a0 x + a1 y + a2, b0 x + b1 y + b2) it is read at.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import tensorflow as tf

from kernels import target

Fill: TypeAlias = Literal["nearest", "constant", "reflect", "wrap"]
Interpolation: TypeAlias = Literal["bilinear", "nearest"]

_DTYPES = (tf.float32, tf.float64, tf.float16, tf.bfloat16, tf.uint8)


def affine_transform(
    images: tf.Tensor,
    matrices: tf.Tensor,
    *,
    fill: Fill = "nearest",
    fill_value: float = 0.0,
    interpolation: Interpolation = "bilinear",
) -> tf.Tensor:
    """Resamples each image through its affine map.

    Beyond the border an image continues as `fill` says: "nearest" its edge (aaaa|abcd|dddd),
    "reflect" mirrored at the pixels' outer edges (dcba|abcd|dcba), "wrap" repeated
    (abcd|abcd|abcd), "constant" as fill_value. All read the extended image, bilinearly or
    nearest: scipy.ndimage's modes "nearest", "reflect", "grid-wrap" and "grid-constant".

    The forms agree within 1e-5 of the images' range times the image's side / 32: coordinates are
    float32 (float64 for float64 images), rounded differently. The gradients to images and matrices
    are those of the gathers in every form.

    Args:
      images: [B, H, W, C], float32, float64, float16, bfloat16 or uint8; H, W and C static.
      matrices: float [B, 6].
      fill: what lies beyond the border.
      fill_value: the constant of fill "constant".
      interpolation: "bilinear", or "nearest" for the pixel nearest to the place.

    Returns:
      [B, H, W, C] of images' dtype; uint8 is rounded to the nearest.

    Raises:
      ValueError: on a shape without static H, W, C, or an unknown fill or interpolation.
      TypeError: on another dtype.
    """
    images, matrices = tf.convert_to_tensor(images), tf.convert_to_tensor(matrices)
    check_images("affine_transform", images)
    _check(matrices, fill, interpolation)
    compute = tf.float64 if images.dtype == tf.float64 else tf.float32
    matrices = tf.cast(matrices, compute)
    # XLA has no kernel for the operation; the operation has float32 coordinates and another wrap.
    gathers = target.current().compiler == "xla" or compute == tf.float64 or fill == "wrap"
    if 0 in images.shape[1:] or images.shape[0] == 0:
        return tf.identity(images)
    if gathers:
        value = _by_gathers(images, matrices, fill, fill_value, interpolation)
    else:
        value = _by_operation(tf.cast(images, compute), matrices, fill, fill_value, interpolation)
    if images.dtype == tf.uint8:
        value = tf.round(value)
    return tf.cast(value, images.dtype)


def check_images(name: str, images: tf.Tensor) -> None:
    """Raises on images that cannot be resampled.

    Args:
      name: who asks, for the message.
      images: the tensor.

    Raises:
      ValueError: on a shape without static H, W, C.
      TypeError: on a dtype not listed in `affine_transform`.
    """
    if images.dtype not in _DTYPES:
        names = ", ".join(dtype.name for dtype in _DTYPES)
        raise TypeError(f"{name}: expected images of {names}, got {images.dtype.name}")
    if images.shape.rank != 4 or None in images.shape[1:]:
        raise ValueError(
            f"{name}: expected images [B, H, W, C] with static H, W, C, got {images.shape}"
        )


def _check(matrices: tf.Tensor, fill: str, interpolation: str) -> None:
    """Raises on arguments that `affine_transform` does not take."""
    if not matrices.dtype.is_floating or matrices.shape.rank != 2 or matrices.shape[1] != 6:
        raise ValueError(
            "affine_transform: expected float matrices [B, 6], "
            f"got {matrices.dtype.name} {matrices.shape}"
        )
    if fill not in get_args(Fill):
        raise ValueError(f"affine_transform: expected fill in {get_args(Fill)}, got {fill!r}")
    if interpolation not in get_args(Interpolation):
        raise ValueError(
            f"affine_transform: expected interpolation in {get_args(Interpolation)}, "
            f"got {interpolation!r}"
        )


def _by_operation(
    images: tf.Tensor,
    matrices: tf.Tensor,
    fill: Fill,
    fill_value: float,
    interpolation: Interpolation,
) -> tf.Tensor:
    """float32 [B, H, W, C] by ImageProjectiveTransformV3, with the gradient of the gathers."""

    def resample(images: tf.Tensor, matrices: tf.Tensor) -> tuple[tf.Tensor, Any]:
        value = tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=tf.pad(matrices, [[0, 0], [0, 2]]),
            output_shape=images.shape[1:3],
            interpolation=interpolation.upper(),
            fill_mode=fill.upper(),
            fill_value=fill_value,
        )

        def gradient(upstream: tf.Tensor) -> Any:
            # TensorFlow's own gradient resamples through the inverse map, which is not it.
            with tf.GradientTape() as tape:
                tape.watch([images, matrices])
                again = _by_gathers(images, matrices, fill, fill_value, interpolation)
            return tape.gradient(again, [images, matrices], upstream, unconnected_gradients="zero")

        return value, gradient

    return tf.custom_gradient(resample)(images, matrices)


def _by_gathers(
    images: tf.Tensor,
    matrices: tf.Tensor,
    fill: Fill,
    fill_value: float,
    interpolation: Interpolation,
) -> tf.Tensor:
    """[B, H, W, C] of matrices' dtype, reading one or four pixels for each."""
    _, height, width, channels = images.shape
    x, y = _places(matrices, height, width)
    pixels = tf.reshape(images, [-1, channels])
    first = tf.range(tf.shape(images)[0])[:, tf.newaxis, tf.newaxis] * (height * width)

    def read(column: _Neighbours, row: _Neighbours, right: bool, below: bool) -> tf.Tensor:
        at_x, at_y = column.indices[right], row.indices[below]
        value = tf.cast(tf.gather(pixels, first + at_y * width + at_x), matrices.dtype)
        if fill != "constant":
            return value
        inside = tf.logical_and(column.inside[right], row.inside[below])[..., tf.newaxis]
        return tf.where(inside, value, tf.constant(fill_value, value.dtype))

    columns = _neighbours(x, width, fill, interpolation)
    rows = _neighbours(y, height, fill, interpolation)
    if interpolation == "nearest":
        return read(columns, rows, False, False)
    across, down = columns.fraction[..., tf.newaxis], rows.fraction[..., tf.newaxis]
    above, below = (
        left + (read(columns, rows, True, low) - left) * across
        for low in (False, True)
        for left in [read(columns, rows, False, low)]
    )
    return above + (below - above) * down


def _places(matrices: tf.Tensor, height: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The input x and y of every output pixel, [B, H, W] each."""
    entries = matrices[:, :, tf.newaxis, tf.newaxis]
    x = tf.range(width, dtype=matrices.dtype)
    y = tf.range(height, dtype=matrices.dtype)[:, tf.newaxis]
    return (
        entries[:, 0] * x + (entries[:, 1] * y + entries[:, 2]),
        entries[:, 3] * x + (entries[:, 4] * y + entries[:, 5]),
    )


class _Neighbours(NamedTuple):
    """Along one axis: the pixels before and after a place, and the share of the second.

    Attributes:
      indices: int32, the pixels to read, within the image.
      inside: bool, whether they are the image's; empty unless the fill is "constant".
      fraction: float, the weight of the second pixel.
    """

    indices: tuple[tf.Tensor, ...]
    inside: tuple[tf.Tensor, ...]
    fraction: tf.Tensor


def _neighbours(
    place: tf.Tensor, size: int, fill: Fill, interpolation: Interpolation
) -> _Neighbours:
    """The pixels around a place on an axis of `size` pixels that continues as `fill` says."""
    last = size - 1
    if fill == "reflect":
        place = place - tf.floor(place / (2 * size)) * (2 * size)
        place = tf.minimum(place, (2 * size - 1) - place)
    if fill == "wrap":
        place = place - tf.floor(place / size) * size
        place = tf.where(place < size, place, tf.zeros_like(place))  # -1e-9 rounds up to size
    elif fill == "constant":
        place = tf.clip_by_value(place, -1.0, float(size))
    else:
        place = tf.clip_by_value(place, 0.0, float(last))
    whole = tf.floor(place + 0.5) if interpolation == "nearest" else tf.floor(place)
    before = tf.cast(whole, tf.int32)
    indices: tuple[tf.Tensor, ...] = (before, before + 1)
    inside: tuple[tf.Tensor, ...] = ()
    if fill == "wrap":
        indices = tuple(tf.where(index >= size, index - size, index) for index in indices)
    elif fill == "constant":
        inside = tuple(tf.logical_and(index >= 0, index <= last) for index in indices)
        indices = tuple(tf.clip_by_value(index, 0, last) for index in indices)
    else:
        indices = (before, tf.minimum(before + 1, last))
    return _Neighbours(indices, inside, place - whole)
