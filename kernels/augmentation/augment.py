"""Random augmentation of a batch of images, each example by its own numbers.

Rotation, shift, shear, zoom, flips and crops compose into one affine map an example and one
resample of the batch; colours and cutout follow. What an example gets depends only on the seed,
the global step and its position in the global batch (`kernels.random`). Each parameter has a place
of its own among the draws, so switching one on does not change the draws of the others.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import get_args

import tensorflow as tf

from kernels import random
from kernels.augmentation import affine, affine_maps, boxes, color
from kernels.random import Integer

# The order is part of a run's identity: append, never reorder.
_DRAWS = (
    "rotation",
    "shift_x",
    "shift_y",
    "shear",
    "zoom_x",
    "zoom_y",
    "flip_x",
    "flip_y",
    "crop_x",
    "crop_y",
    "area",
    "aspect",
    "brightness",
    "contrast",
    "saturation",
    "cutout_x",
    "cutout_y",
)
_Draws = Mapping[str, tf.Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to each image at random; the default does nothing, at no cost.

    Rotation, shifts, shear and zoom are drawn and composed as
    keras.src.legacy.preprocessing.image.ImageDataGenerator does it: rotation @ shift @ shear @
    zoom about the image's centre, then flips. Two things differ from it, on purpose: shifts and
    centre of an image that is not square (Keras swaps its height and width), and fill "constant",
    which fades over the last pixel where Keras cuts. Then, of the transformed image, a crop.

    Attributes:
      rotation: degrees; the angle is uniform in [-rotation, rotation].
      width_shift: share of the width; uniform in [-width_shift, width_shift].
      height_shift: share of the height, likewise.
      shear: degrees, likewise.
      zoom: z for factors in [1 - z, 1 + z], or (lowest, highest); x and y are drawn separately;
        a factor above 1 shows more of the image, smaller.
      horizontal_flip: flip left and right, with probability one half.
      vertical_flip: flip top and bottom, likewise.
      crop_padding: pixels on every side, filled as `fill` says, before a random crop of the
        image's own size at a whole pixel.
      resized_crop: (lowest, highest) share of the area of a random crop that is resized to the
        image's size, or None (Szegedy et al. 2014; torchvision's RandomResizedCrop, with a side
        longer than the image's cut to it instead of drawn again, and without antialiasing).
      crop_aspect: (lowest, highest) width over height of that crop; its logarithm is uniform.
      fill: what lies beyond the border, see `affine_transform`.
      fill_value: the constant of fill "constant", and what cutout writes.
      interpolation: "bilinear" or "nearest".
      brightness: b for a factor uniform in [max(0, 1 - b), 1 + b], see `adjust_brightness`.
      contrast: likewise, see `adjust_contrast`.
      saturation: likewise, see `adjust_saturation`; RGB images only.
      cutout: side of the square overwritten with fill_value, pixels; 0 for none.

    Raises:
      ValueError: on a value out of its range.
    """

    rotation: float = 0.0
    width_shift: float = 0.0
    height_shift: float = 0.0
    shear: float = 0.0
    zoom: float | tuple[float, float] = 0.0
    horizontal_flip: bool = False
    vertical_flip: bool = False
    crop_padding: int = 0
    resized_crop: tuple[float, float] | None = None
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    fill: affine.Fill = "nearest"
    fill_value: float = 0.0
    interpolation: affine.Interpolation = "bilinear"
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    cutout: int = 0

    def __post_init__(self) -> None:
        """Checks every value."""
        self._check("rotation", 0 <= self.rotation <= 180, "degrees in [0, 180]")
        self._check("width_shift", 0 <= self.width_shift <= 1, "a share in [0, 1]")
        self._check("height_shift", 0 <= self.height_shift <= 1, "a share in [0, 1]")
        self._check("shear", 0 <= self.shear < 90, "degrees in [0, 90)")
        low, high = self._zoom_range()
        self._check("zoom", 0 < low <= high < math.inf, "z in [0, 1), or 0 < lowest <= highest")
        low, high = self.resized_crop or (1.0, 1.0)
        self._check("resized_crop", 0 < low <= high <= 1, "0 < lowest <= highest <= 1, or None")
        alone = not (self.crop_padding and self.resized_crop is not None)
        self._check("resized_crop", alone, "None where there is crop_padding")
        low, high = self.crop_aspect
        self._check("crop_aspect", 0 < low <= high < math.inf, "0 < lowest <= highest")
        for name in ("crop_padding", "cutout"):
            value = getattr(self, name)
            self._check(name, isinstance(value, int) and value >= 0, "whole pixels, at least 0")
        for name in ("brightness", "contrast", "saturation"):
            self._check(name, 0 <= getattr(self, name) < math.inf, "at least 0, finite")
        self._check("fill_value", math.isfinite(self.fill_value), "a finite number")
        self._check("fill", self.fill in get_args(affine.Fill), f"one of {get_args(affine.Fill)}")
        ways = get_args(affine.Interpolation)
        self._check("interpolation", self.interpolation in ways, f"one of {ways}")

    @classmethod
    def article(cls) -> Augmentation:
        """Rotation 20 degrees, shifts 0.2, horizontal flip, edges repeated.

        Keras's ImageDataGenerator(rotation_range=20, width_shift_range=0.2,
        height_shift_range=0.2, horizontal_flip=True).
        """
        return cls(rotation=20.0, width_shift=0.2, height_shift=0.2, horizontal_flip=True)

    @classmethod
    def standard(cls) -> Augmentation:
        """Crop from 4 pixels of zero padding, and horizontal flip (He et al. 2015, CIFAR-10)."""
        return cls(crop_padding=4, horizontal_flip=True, fill="constant")

    @property
    def is_identity(self) -> bool:
        """Whether nothing is done."""
        return not (self._moves or self._colors or self.cutout)

    def __call__(
        self, images: tf.Tensor, *, seed: Integer, step: Integer, positions: tf.Tensor
    ) -> tf.Tensor:
        """Augments a batch.

        Args:
          images: [B, H, W, C], float32, float64, float16, bfloat16 or uint8; H, W, C static.
          seed: the run's seed, an int or an integer scalar tensor.
          step: the global step, likewise.
          positions: integer [B], each example's position in the global batch.

        Returns:
          [B, H, W, C] of images' dtype; uint8 is rounded and kept within [0, 255].

        Raises:
          ValueError: on a shape without static H, W, C, or saturation of other than 3 channels.
          TypeError: on another dtype.
        """
        if self.is_identity:
            return images
        images = tf.convert_to_tensor(images)
        dtype = images.dtype
        affine.check_images("Augmentation", images)
        draws = random.uniform(seed, "augment", step, positions, (len(_DRAWS),))
        by_name = dict(zip(_DRAWS, tf.unstack(draws, axis=1), strict=True))
        if self._colors and dtype not in (tf.float32, tf.float64):
            images = tf.cast(images, tf.float32)  # one rounding, at the end
        if self._moves:
            images = self._moved(images, by_name)
        if self._colors:
            images = self._colored(images, by_name)
        if self.cutout:
            images = self._cut(images, by_name)
        if dtype == tf.uint8 and images.dtype != tf.uint8:
            images = tf.clip_by_value(tf.round(images), 0.0, 255.0)
        return tf.cast(images, dtype)

    @property
    def _moves(self) -> bool:
        """Whether anything changes places."""
        return self._interpolates or bool(
            self.horizontal_flip or self.vertical_flip or self.crop_padding
        )

    @property
    def _interpolates(self) -> bool:
        """Whether places can fall between pixels."""
        turns = self.rotation or self.width_shift or self.height_shift or self.shear
        return bool(turns) or self._zoom_range() != (1.0, 1.0) or self.resized_crop is not None

    @property
    def _colors(self) -> bool:
        """Whether values are scaled."""
        return bool(self.brightness or self.contrast or self.saturation)

    def _zoom_range(self) -> tuple[float, float]:
        """Lowest and highest zoom factor."""
        if isinstance(self.zoom, tuple):
            return self.zoom
        return 1.0 - self.zoom, 1.0 + self.zoom

    def _moved(self, images: tf.Tensor, draws: _Draws) -> tf.Tensor:
        """The images through their affine maps."""
        # In float64 and then rounded. TensorFlow's sine of float32 has other last bits for elements
        # after the last whole SIMD packet, and XLA contracts a product and a sum only where it
        # vectorizes. The images at the end of a replica's slice would differ.
        draws = {name: tf.cast(draw, tf.float64) for name, draw in draws.items()}
        exact = self._matrices(images.shape[1], images.shape[2], draws)
        matrices = tf.cast(exact, tf.float32)
        return affine.affine_transform(
            images,
            matrices,
            fill=self.fill,
            fill_value=self.fill_value,
            # Flips and whole-pixel crops read pixels as they are: one read instead of four.
            interpolation=self.interpolation if self._interpolates else "nearest",
        )

    def _matrices(self, height: int, width: int, draws: _Draws) -> tf.Tensor:
        """[B, 6] in the draws' dtype, the affine maps drawn."""

        def symmetric(name: str, bound: float) -> affine_maps.Parameter:
            return (draws[name] * 2.0 - 1.0) * bound if bound else 0.0

        low, high = self._zoom_range()
        window_width, window_height, window_x, window_y = self._window(height, width, draws)
        return affine_maps.affine_matrices(
            height,
            width,
            rotation=symmetric("rotation", math.radians(self.rotation)),
            shift_x=symmetric("shift_x", self.width_shift * width),
            shift_y=symmetric("shift_y", self.height_shift * height),
            shear=symmetric("shear", math.radians(self.shear)),
            zoom_x=1.0 if low == high == 1.0 else low + (high - low) * draws["zoom_x"],
            zoom_y=1.0 if low == high == 1.0 else low + (high - low) * draws["zoom_y"],
            window_x=window_x,
            window_y=window_y,
            window_width=_flipped(window_width, draws["flip_x"], self.horizontal_flip),
            window_height=_flipped(window_height, draws["flip_y"], self.vertical_flip),
        )

    def _window(self, height: int, width: int, draws: _Draws) -> list[affine_maps.Parameter]:
        """Shares of width and height of the crop, and its centre's offset in pixels."""
        shares: list[affine_maps.Parameter] = [1.0, 1.0]
        offsets: list[affine_maps.Parameter] = [0.0, 0.0]
        names, sizes = ("crop_x", "crop_y"), (width, height)
        if self.resized_crop is not None:
            low, high = self.resized_crop
            area = (low + (high - low) * draws["area"]) * float(height * width)
            low, high = (math.log(bound) for bound in self.crop_aspect)
            root = tf.exp(0.5 * (low + (high - low) * draws["aspect"]))
            sides = tf.sqrt(area) * root, tf.sqrt(area) / root
            shares = [tf.minimum(side / size, 1.0) for side, size in zip(sides, sizes, strict=True)]
            offsets = [
                (draws[name] - 0.5) * ((1.0 - share) * size)
                for name, share, size in zip(names, shares, sizes, strict=True)
            ]
        elif self.crop_padding:
            choices = 2 * self.crop_padding + 1
            offsets = [
                tf.floor(draws[name] * float(choices)) - float(self.crop_padding) for name in names
            ]
        return shares + offsets

    def _colored(self, images: tf.Tensor, draws: _Draws) -> tf.Tensor:
        """The images with brightness, contrast and saturation changed, in this order."""
        for name, change in (
            ("brightness", color.adjust_brightness),
            ("contrast", color.adjust_contrast),
            ("saturation", color.adjust_saturation),
        ):
            bound = getattr(self, name)
            if bound:
                low = max(0.0, 1.0 - bound)
                images = change(images, low + (1.0 + bound - low) * draws[name])
        return images

    def _cut(self, images: tf.Tensor, draws: _Draws) -> tf.Tensor:
        """The images with a square overwritten."""
        _, height, width, _ = images.shape
        rows = tf.cast(draws["cutout_y"] * float(height), tf.int32)
        columns = tf.cast(draws["cutout_x"] * float(width), tf.int32)
        return boxes.cutout(images, rows, columns, size=self.cutout, value=self.fill_value)

    def _check(self, name: str, right: bool, expected: str) -> None:
        """Raises a ValueError about the named attribute unless it is right."""
        if not right:
            raise ValueError(
                f"Augmentation.{name}: expected {expected}, got {getattr(self, name)!r}"
            )


def _flipped(share: affine_maps.Parameter, draw: tf.Tensor, flip: bool) -> affine_maps.Parameter:
    """The share, negative with probability one half if there is a flip."""
    one = tf.ones([], draw.dtype)
    return tf.where(draw < 0.5, -one, one) * share if flip else share
