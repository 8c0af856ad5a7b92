"""Windows that slide over images, as strided slices, which XLA:CPU runs faster than its own."""

from __future__ import annotations

import dataclasses
from typing import Literal

import tensorflow as tf

Padding = Literal["SAME", "VALID"]
Pair = int | tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Window:
    """A window sliding over the two middle axes of [B, H, W, C], padded as TensorFlow does.

    Attributes:
      size: height and width of the window.
      strides: its steps.
      dilations: distance between its taps.
      padding: "SAME" or "VALID".
    """

    size: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    padding: Padding

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Number of places the window takes along both axes of an image of `size`."""
        return self._along(0, size[0])[0], self._along(1, size[1])[0]

    def margins(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Padding before and after along both axes."""
        return [self._along(0, size[0])[1], self._along(1, size[1])[1]]

    def taps(self, padded: tf.Tensor, output_size: tuple[int, int]) -> list[tf.Tensor]:
        """For each place in the window, row by row, what it sees: [B, out_h, out_w, C]."""
        return [
            padded[
                :,
                i : i + (output_size[0] - 1) * self.strides[0] + 1 : self.strides[0],
                j : j + (output_size[1] - 1) * self.strides[1] + 1 : self.strides[1],
            ]
            for i, j in self.offsets()
        ]

    def offsets(self) -> list[tuple[int, int]]:
        """Each tap's offset from the window's corner, row by row."""
        return [
            (i * self.dilations[0], j * self.dilations[1])
            for i in range(self.size[0])
            for j in range(self.size[1])
        ]

    def spread(self, parts: list[tf.Tensor], size: tuple[int, int]) -> tf.Tensor:
        """The transpose of `taps` and padding: adds each tap's share to where it came from."""
        (top, _), (left, _) = self.margins(size)
        places = self.output_size(size)
        total: tf.Tensor | None = None
        for (i, j), part in zip(self.offsets(), parts, strict=True):
            placed = _place(part, 1, i - top, self.strides[0], places[0], size[0])
            placed = _place(placed, 2, j - left, self.strides[1], places[1], size[1])
            total = placed if total is None else total + placed
        return total

    def counts(self, size: tuple[int, int]) -> tuple[list[int], list[int]]:
        """How many rows, and how many columns, of each window lie inside the image."""
        margins, places = self.margins(size), self.output_size(size)
        inside = [
            [
                sum(
                    0 <= p * self.strides[a] - margins[a][0] + t * self.dilations[a] < size[a]
                    for t in range(self.size[a])
                )
                for p in range(places[a])
            ]
            for a in (0, 1)
        ]
        return inside[0], inside[1]

    def _along(self, axis: int, size: int) -> tuple[int, tuple[int, int]]:
        reach = (self.size[axis] - 1) * self.dilations[axis] + 1
        stride = self.strides[axis]
        if self.padding == "VALID":
            return max((size - reach) // stride + 1, 0), (0, 0)
        places = -(-size // stride)
        total = max((places - 1) * stride + reach - size, 0)
        return places, (total // 2, total - total // 2)


def _place(
    part: tf.Tensor, axis: int, start: int, stride: int, places: int, size: int
) -> tf.Tensor:
    """Puts `part`'s slices along `axis` at start, start + stride, ... of `size` zeros."""
    if stride > 1:
        shape = part.shape.as_list()
        part = tf.expand_dims(part, axis + 1)
        part = tf.pad(part, [(0, stride - 1) if a == axis + 1 else (0, 0) for a in range(5)])
        shape = [-1 if a == 0 else shape[a] for a in range(4)]
        shape[axis] = places * stride
        part = tf.reshape(part, shape)
    long = places * stride
    first, last = max(-start, 0), min(long, size - start)
    before, after = max(start, 0), max(size - start - long, 0)
    part = part[:, first:last] if axis == 1 else part[:, :, first:last]
    return tf.pad(part, [(before, after) if a == axis else (0, 0) for a in range(4)])


def window(size: Pair, strides: Pair, padding: Padding, dilations: Pair, asker: str) -> Window:
    """A checked window.

    Raises:
      ValueError: on an unknown padding, or a size, stride or dilation that is not positive.
    """
    if padding not in ("SAME", "VALID"):
        raise ValueError(f"{asker}: padding must be 'SAME' or 'VALID', got {padding!r}")
    pairs = []
    for name, value in (("size", size), ("strides", strides), ("dilations", dilations)):
        pair = (value, value) if isinstance(value, int) else tuple(value)
        if len(pair) != 2 or min(pair) < 1:
            raise ValueError(f"{asker}: {name} must be one or two positive integers, got {value!r}")
        pairs.append(pair)
    return Window(pairs[0], pairs[1], pairs[2], padding)


def image_size(x: tf.Tensor, asker: str) -> tuple[int, int]:
    """The static height and width of [B, H, W, C].

    Raises:
      ValueError: where one is not static.
    """
    height, width = x.shape[1], x.shape[2]
    if height is None or width is None:
        raise ValueError(
            f"{asker}: height and width must be static for XLA, got {x.shape}; use tf.ensure_shape"
        )
    return int(height), int(width)
