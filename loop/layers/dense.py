"""A matrix product with a bias."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from loop.layers.initial import check_positive, drawn, filled
from loop.layers.module import Module


class Dense(Module):
    """`y = x @ kernel + bias`.

    Args:
      inputs: size of the last axis of x.
      units: size of the last axis of y.
      name: of the layer; its variables are `name/kernel` [inputs, units] and `name/bias` [units].
      seed: of the initial kernel, normal with variance 2 / inputs (He et al. 2015) or, with
        `gain=1`, 1 / inputs.
      gain: the variance times `inputs`.
      bias: whether there is one; leave it out before a BatchNorm, whose offset replaces it.
      dtype: of the variables.

    Raises:
      ValueError: if a size is below 1.
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        *,
        name: str,
        seed: int,
        gain: float = 2.0,
        bias: bool = True,
        dtype: Any = tf.float32,
    ) -> None:
        check_positive(f"Dense {name!r}", inputs=inputs, units=units)
        deviation = math.sqrt(gain / inputs)
        shape = (inputs, units)
        self.kernel = drawn(
            shape, name=f"{name}/kernel", seed=seed, deviation=deviation, dtype=dtype
        )
        self.bias = (
            filled(0.0, units, name=f"{name}/bias", dtype=dtype, trainable=True) if bias else None
        )

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """[..., inputs] -> [..., units], in x's dtype."""
        y = tf.tensordot(x, tf.cast(self.kernel, x.dtype), 1)
        return y if self.bias is None else y + tf.cast(self.bias, x.dtype)
