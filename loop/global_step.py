"""The one counter of a run."""

from __future__ import annotations

import tensorflow as tf


class GlobalStep:
    """Counts the finished steps of a run, one a batch, whatever a step does inside.

    Learning rate, data order, random numbers, logs, checkpoints and triggers all read it; only the
    compiled loop advances it. int64, so that it is exact far above 2**24, where TF1's float32
    counter cannot represent each step.

    Attributes:
      variable: int64 scalar variable, named "global_step".

    Raises:
      ValueError: if it would start below zero.
    """

    def __init__(self, start: int = 0) -> None:
        if start < 0:
            raise ValueError(f"GlobalStep: start must be at least 0, got {start}")
        self.variable = tf.Variable(start, dtype=tf.int64, trainable=False, name="global_step")

    def read(self) -> tf.Tensor:
        """The counter as an int64 scalar tensor, eager or traced."""
        return self.variable.read_value()

    def advance(self, by: tf.Tensor | int) -> None:
        """Adds `by` (int64 scalar); only for the compiled loop."""
        self.variable.assign_add(by)

    def __int__(self) -> int:
        return int(self.variable.numpy())

    def __repr__(self) -> str:
        return f"GlobalStep({int(self)})"
