"""The dynamic loss scale of float16 training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from loop import handles

_FACTOR = 2.0
_SMALLEST = 1.0
_LARGEST = 2.0**126  # whose inverse is still a normal float32


class LossScale:
    """A factor on the loss that keeps float16 gradients from underflowing.

    It doubles after `growth_steps` updates in a row and halves when the scaled gradients overflow,
    down to 1. It is a power of two, so scaling and unscaling round nothing. Make it within the
    replicas' scope.

    Source: Micikevicius et al. 2018, arXiv:1710.03740; numbers as in
    `keras.optimizers.LossScaleOptimizer`, lower bound as in TensorFlow's `DynamicLossScale`.

    Args:
      initial: the first scale, a power of two from 1.
      growth_steps: updates in a row before it doubles, at least 1.

    Attributes:
      state: "loss_scale" (float32) and "good_steps" (int64: updates since the last change).

    Raises:
      ValueError: on a number out of range.
    """

    def __init__(self, *, initial: float = 2.0**15, growth_steps: int = 2000) -> None:
        if not _SMALLEST <= initial <= _LARGEST or math.frexp(initial)[0] != 0.5:
            raise ValueError(
                f"LossScale: initial must be a power of two from 1 to 2**126, got {initial!r}"
            )
        if growth_steps < 1:
            raise ValueError(f"LossScale: growth_steps must be at least 1, got {growth_steps}")
        self._growth_steps = growth_steps
        self._scale = tf.Variable(initial, dtype=tf.float32, trainable=False, name="loss_scale")
        self._good_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="good_steps")
        self.state: dict[str, tf.Variable] = {
            "loss_scale": self._scale,
            "good_steps": self._good_steps,
        }

    def read(self) -> tf.Tensor:
        """The scale in use, a float32 scalar; this replica's copy."""
        return handles.read(self._scale)

    def update(
        self, scale: tf.Tensor, *, loss_finite: tf.Tensor, gradients_finite: tf.Tensor
    ) -> tf.Tensor:
        """Moves the scale after a step, equally on every replica.

        A loss that is not finite was so before it was scaled: the scale does not change, and the
        step is a fault like any other. So are gradients that are not finite at the smallest scale.

        Args:
          scale: what `read` gave for this step.
          loss_finite: whether the unscaled loss is finite, over all replicas.
          gradients_finite: whether the gradients are, over all replicas.

        Returns:
          Whether the step overflowed: a bool scalar. The scale was halved, and the step is to be
          skipped, which is no fault.
        """
        overflow = loss_finite & ~gradients_finite & (scale > _SMALLEST)
        done = loss_finite & gradients_finite
        good_steps = handles.read(self._good_steps)
        count = good_steps + 1
        grows = done & (count >= self._growth_steps)
        scale = tf.where(grows, tf.minimum(scale * _FACTOR, _LARGEST), scale)
        scale = tf.where(overflow, tf.maximum(scale / _FACTOR, _SMALLEST), scale)
        count = tf.where(grows | overflow, tf.zeros([], tf.int64), count)
        handles.write(self._scale, scale)
        handles.write(self._good_steps, tf.where(done | overflow, count, good_steps))
        return overflow


def unscale_gradients(gradients: Sequence[Any], scale: tf.Tensor) -> list[Any]:
    """The gradients of the loss from those of the loss times `scale`, after their reduction.

    Args:
      gradients: tensors, IndexedSlices and None.
      scale: a float32 scalar, from `LossScale.read`.
    """

    def divide(value: tf.Tensor) -> tf.Tensor:
        return value * tf.cast(1.0 / scale, value.dtype)

    return [
        tf.IndexedSlices(divide(gradient.values), gradient.indices, gradient.dense_shape)
        if isinstance(gradient, tf.IndexedSlices)
        else None
        if gradient is None
        else divide(gradient)
        for gradient in gradients
    ]
