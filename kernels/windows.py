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
        """For each place in the window, row by row, the pixels it reads: [B, out_h, out_w, C]."""
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
        """The transpose of padding and `taps`: adds each tap's share to where it came from.

        Pixels a stride apart belong to the same taps, so each such phase is a sum of shifted parts,
        and the image is the phases interleaved. (Zeros put between a part's pixels would make XLA
        test each pixel against each part.)
        """
        places = self.output_size(size)
        # Rows and columns of a phase: as many as the windows reach.
        reach = [
            places[a] + (self.size[a] - 1) * self.dilations[a] // self.strides[a] for a in (0, 1)
        ]
        phases: dict[tuple[int, int], tf.Tensor] = {}
        for (i, j), part in zip(self.offsets(), parts, strict=True):
            (down, row), (right, column) = divmod(i, self.strides[0]), divmod(j, self.strides[1])
            below, beyond = reach[0] - places[0] - down, reach[1] - places[1] - right
            part = tf.pad(part, [(0, 0), (down, below), (right, beyond), (0, 0)])
            phases[row, column] = phases[row, column] + part if (row, column) in phases else part
        some = next(iter(phases.values()))
        image = _interleave(
            [
                _interleave(
                    [phases.get((i, j), tf.zeros_like(some)) for j in range(self.strides[1])], 2
                )
                for i in range(self.strides[0])
            ],
            1,
        )
        return self._without_margins(image, size)

    def _without_margins(self, image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
        """Cuts the margins off a padded image; pixels that no window reached become 0."""
        (top, _), (left, _) = self.margins(size)
        image = image[:, top : top + size[0], left : left + size[1]]
        missing = [(0, size[a] - image.shape[a + 1]) for a in (0, 1)]
        return tf.pad(image, [(0, 0), *missing, (0, 0)])

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


def _interleave(images: list[tf.Tensor], axis: int) -> tf.Tensor:
    """The images' slices along `axis` in turn: the first of each, the second of each, ..."""
    if len(images) == 1:
        return images[0]
    shape = [-1, *images[0].shape[1:]]
    shape[axis] *= len(images)
    return tf.reshape(tf.stack(images, axis + 1), shape)


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
