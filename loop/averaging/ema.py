"""An exponential moving average of the weights, to evaluate on."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from loop.averaging.shadow_weights import ShadowWeights
from loop.handles import read


class WeightEMA(ShadowWeights):
    """`average = decay * average + (1 - decay) * weight` after every update.

    It holds the trained variables. Statistics of BatchNorm are averages already; the
    model's own are used.

    Source: Polyak and Juditsky 1992; the numbers of `tf.train.ExponentialMovingAverage`.

    Args:
      decay: the share kept, in [0, 1).
      ramp: the n-th update keeps `min(decay, (1 + n) / (10 + n))`, so that the initial weights
        lose their influence in a short run too (TensorFlow's `num_updates`).

    Raises:
      ValueError: if decay is outside [0, 1).
    """

    name = "ema"

    def __init__(self, decay: float, *, ramp: bool = True) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"WeightEMA: decay must be in [0, 1), got {decay}")
        self._decay = decay
        self._ramp = ramp

    def move(
        self,
        pairs: Sequence[tuple[tf.Variable, tf.Variable]],
        count: tf.Tensor,
        finite: tf.Tensor,
    ) -> None:
        """One step of the average; none where the update was skipped."""
        decay = tf.constant(self._decay, tf.float64)
        if self._ramp:
            number = tf.cast(count, tf.float64)
            decay = tf.minimum(decay, (1.0 + number) / (10.0 + number))
        # A rate of zero adds nothing: cheaper than a choice between two tensors.
        rate = tf.where(finite, 1.0 - decay, tf.zeros([], tf.float64))
        for variable, average in pairs:
            way = read(variable) - read(average)
            tf.raw_ops.AssignAddVariableOp(
                resource=average.handle, value=tf.cast(rate, way.dtype) * way
            )
