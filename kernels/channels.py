"""Where a tensor's channels are, and what is computed per channel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import tensorflow as tf

DataFormat = Literal["NHWC", "NCHW"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The axes of a tensor [B, C], [B, ..., C] or [B, C, ...].

    Attributes:
      rank: number of axes, at least 2.
      axis: the channels' axis, 1 or rank - 1.
      size: number of channels.
    """

    rank: int
    axis: int
    size: int

    @property
    def others(self) -> list[int]:
        """All axes but the channels'."""
        return [a for a in range(self.rank) if a != self.axis]

    def spread(self, value: tf.Tensor) -> tf.Tensor:
        """[C] in a shape that broadcasts against the tensor."""
        if self.axis == self.rank - 1:
            return value
        return tf.reshape(value, [self.size] + [1] * (self.rank - 1 - self.axis))

    def per_example(self, value: tf.Tensor) -> tf.Tensor:
        """[B] in a shape that broadcasts against the tensor."""
        return tf.reshape(value, [-1] + [1] * (self.rank - 1))

    def count(self, x: tf.Tensor, dtype: tf.DType, mask: tf.Tensor | None = None) -> tf.Tensor:
        """How many of x's values a channel has, in the examples where `mask` is True: a scalar."""
        if mask is None and x.shape.is_fully_defined():
            return tf.constant(x.shape.num_elements() // max(self.size, 1), dtype)
        shape = tf.shape(x, tf.int64)
        examples = shape[0] if mask is None else tf.math.count_nonzero(mask)
        each = tf.reduce_prod([shape[a] for a in self.others[1:]] or [tf.constant(1, tf.int64)])
        return tf.cast(examples * each, dtype)

    def sample(self, x: tf.Tensor, mask: tf.Tensor | None, dtype: tf.DType) -> tf.Tensor:
        """[C] of `dtype`: near each channel's values, from the first two or the first real example.

        Their mean, or the example's value where there is a mask; 0 if x is empty. A sum of two is a
        tensor of its own. XLA would compute a slice again wherever it is used, and so keep all of x
        until the moving averages are written, after the update.
        """
        if mask is None:
            some = x[:2]
        else:
            one = tf.cast(tf.argmax(mask), tf.int32)
            some = x[one : one + 1]
        for axis in self.others[1:]:
            some = tf.gather(some, [0], axis=axis)
        some = tf.cast(tf.reshape(some, [-1, self.size]), dtype)
        return tf.reduce_sum(some, 0) / tf.cast(tf.maximum(tf.shape(some)[0], 1), dtype)

    def to_nhwc(self, x: tf.Tensor) -> tf.Tensor:
        """The tensor as [N, 1, 1, C], or as it is if it has four axes with the channels last."""
        if self.axis == self.rank - 1:
            return x if self.rank == 4 else tf.reshape(x, [-1, 1, 1, self.size])
        last = tf.transpose(x, [*self.others, self.axis])
        return last if self.rank == 4 else tf.reshape(last, [-1, 1, 1, self.size])

    def from_nhwc(self, y: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
        """Undoes `to_nhwc` for a tensor of the shape of `like`."""
        if self.axis == self.rank - 1:
            return y if self.rank == 4 else tf.reshape(y, tf.shape(like))
        if self.rank != 4:
            shape = tf.shape(like)
            y = tf.reshape(y, [*(shape[a] for a in self.others), self.size])
        return tf.transpose(y, [0, self.rank - 1, *range(1, self.rank - 1)])


def layout_of(x: tf.Tensor, data_format: DataFormat, asker: str) -> Layout:
    """The layout of x.

    Raises:
      ValueError: on an unknown `data_format`, an unknown rank or one below 2, or where the number
        of channels is not static.
      TypeError: where x is not floating point.
    """
    if data_format not in ("NHWC", "NCHW"):
        raise ValueError(f"{asker}: data_format must be 'NHWC' or 'NCHW', got {data_format!r}")
    if not x.dtype.is_floating:
        raise TypeError(f"{asker}: x must be floating point, got {x.dtype.name}; cast it")
    rank = x.shape.rank
    if rank is None or rank < 2:
        raise ValueError(f"{asker}: x must be [B, C] or [B, H, W, C], got shape {x.shape}")
    axis = rank - 1 if data_format == "NHWC" else 1
    if x.shape[axis] is None:
        raise ValueError(
            f"{asker}: the number of channels (axis {axis}) must be static, got shape {x.shape}; "
            "use tf.ensure_shape"
        )
    return Layout(rank, axis, int(x.shape[axis]))


def apply_nhwc(
    function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, data_format: DataFormat
) -> tf.Tensor:
    """`function`, which takes and gives [B, H, W, C], on x in either format."""
    if data_format == "NHWC":
        return function(x)
    return tf.transpose(function(tf.transpose(x, [0, 2, 3, 1])), [0, 3, 1, 2])
