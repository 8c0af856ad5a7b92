"""Layer normalisation."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

import kernels
from loop.layers.initial import check_positive, filled
from loop.layers.module import Module


class LayerNorm(Module):
    """Layer normalisation over the last axis, by `kernels.layer_norm`.

    Args:
      size: of the last axis.
      name: of the layer; its variables are `name/scale` and `name/offset`, [size].
      epsilon: added to the variance.
      dtype: of the variables.

    Raises:
      ValueError: if size is below 1.
    """

    def __init__(
        self, size: int, *, name: str, epsilon: float = 1e-6, dtype: Any = tf.float32
    ) -> None:
        check_positive(f"LayerNorm {name!r}", size=size)
        self.scale = filled(1.0, size, name=f"{name}/scale", dtype=dtype, trainable=True)
        self.offset = filled(0.0, size, name=f"{name}/offset", dtype=dtype, trainable=True)
        self.epsilon = epsilon

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """[..., size] -> the same shape and dtype."""
        return kernels.layer_norm(x, self.scale, self.offset, epsilon=self.epsilon)
