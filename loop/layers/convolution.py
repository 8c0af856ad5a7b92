"""A 2-D convolution with a bias."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

import kernels
from loop.layers.initial import check_positive, drawn, filled
from loop.layers.module import Module


class Conv2D(Module):
    """A 2-D convolution, NHWC, by `kernels.conv2d`.

    Args:
      inputs: channels of x.
      filters: channels of y.
      size: height and width of the window.
      name: of the layer; its variables are `name/kernel` [size, size, inputs, filters] and
        `name/bias` [filters].
      seed: of the initial kernel, normal with variance 2 / (size * size * inputs).
      strides: of the window.
      padding: "SAME" or "VALID".
      bias: whether there is one.
      dtype: of the variables.

    Raises:
      ValueError: if a size is below 1.
    """

    def __init__(
        self,
        inputs: int,
        filters: int,
        size: int,
        *,
        name: str,
        seed: int,
        strides: int = 1,
        padding: kernels.Padding = "SAME",
        bias: bool = True,
        dtype: Any = tf.float32,
    ) -> None:
        check_positive(
            f"Conv2D {name!r}", inputs=inputs, filters=filters, size=size, strides=strides
        )
        deviation = math.sqrt(2.0 / (size * size * inputs))
        shape = (size, size, inputs, filters)
        self.kernel = drawn(
            shape, name=f"{name}/kernel", seed=seed, deviation=deviation, dtype=dtype
        )
        self.bias = (
            filled(0.0, filters, name=f"{name}/bias", dtype=dtype, trainable=True) if bias else None
        )
        self.strides = strides
        self.padding = padding

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, inputs] -> [B, H', W', filters], in x's dtype."""
        kernel = tf.cast(self.kernel, x.dtype)
        y = kernels.conv2d(x, kernel, strides=self.strides, padding=self.padding)
        return y if self.bias is None else y + tf.cast(self.bias, x.dtype)
