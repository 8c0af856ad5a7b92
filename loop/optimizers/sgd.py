"""Gradient descent and momentum."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import tensorflow as tf

from kernels import updates
from kernels.updates import Keep
from loop.optimizers import checks
from loop.optimizers.base import LearningRate, Optimizer
from loop.optimizers.trained import Scalars, Slots, Trained


class SGD(Optimizer):
    """Gradient descent: `p - lr g`.

    A sparse gradient means the same lazily and exactly, but for weight decay.

    Args:
      learning_rate: a number or a schedule.
      **options: see `Optimizer`.

    Source: `tf.compat.v1.train.GradientDescentOptimizer`, `keras.optimizers.SGD`.
    """

    has_fused = True
    idle = MappingProxyType({"learning_rate": 0.0})

    def __init__(self, learning_rate: LearningRate = 0.01, **options: Any) -> None:
        super().__init__(learning_rate, **options)

    def slots_for(self, name: str, shape: tf.TensorShape) -> Mapping[str, float]:
        """None."""
        del name, shape
        return {}

    def scalars(self, learning_rate: tf.Tensor, count: tf.Tensor, dtype: tf.DType) -> Scalars:
        """None besides the learning rate."""
        del learning_rate, count, dtype
        return {}

    def rule(
        self,
        trained: Trained,
        parameter: tf.Tensor,
        gradient: tf.Tensor,
        slots: Slots,
        scalars: Scalars,
        keep: Keep,
    ) -> tuple[tf.Tensor, Slots]:
        """See `kernels.updates.sgd`."""
        del trained, keep
        rate = scalars["learning_rate"]
        return updates.sgd(parameter, gradient, learning_rate=rate), slots

    def fused(
        self,
        handle: tf.Tensor,
        slots: Mapping[str, tf.Tensor],
        gradient: tf.Tensor,
        scalars: Scalars,
    ) -> None:
        """One pass, in place."""
        del slots
        tf.raw_ops.ResourceApplyGradientDescent(
            var=handle, alpha=scalars["learning_rate"], delta=gradient
        )


class Momentum(Optimizer):
    """Momentum, plain or Nesterov's: `v = mu v + g`, `p - lr v` or `p - lr (g + mu v)`.

    The slot `momentum` holds gradients, as compat.v1's; Keras's holds steps, the same while the
    learning rate is constant. A sparse gradient is lazy by default, as in compat.v1 (Keras: exact).

    Args:
      learning_rate: a number or a schedule.
      momentum: mu, in [0, 1).
      nesterov: whether to look ahead.
      **options: see `Optimizer`.

    Raises:
      ValueError: if momentum is out of range.

    Source: Sutskever et al. 2013; `tf.compat.v1.train.MomentumOptimizer`.
    """

    has_fused = True
    idle = MappingProxyType({"learning_rate": 0.0, "momentum": 1.0})

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        momentum: float = 0.9,
        *,
        nesterov: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self._momentum = checks.number("Momentum", "momentum", momentum, below=1.0)
        self._nesterov = bool(nesterov)

    def slots_for(self, name: str, shape: tf.TensorShape) -> Mapping[str, float]:
        """The velocity."""
        del name, shape
        return {"momentum": 0.0}

    def scalars(self, learning_rate: tf.Tensor, count: tf.Tensor, dtype: tf.DType) -> Scalars:
        """The momentum."""
        del learning_rate, count, dtype
        return {"momentum": tf.constant(self._momentum, tf.float64)}

    def rule(
        self,
        trained: Trained,
        parameter: tf.Tensor,
        gradient: tf.Tensor,
        slots: Slots,
        scalars: Scalars,
        keep: Keep,
    ) -> tuple[tf.Tensor, Slots]:
        """See `kernels.updates.momentum`."""
        del trained
        new, velocity = updates.momentum(
            parameter, gradient, slots["momentum"], nesterov=self._nesterov, **scalars, keep=keep
        )
        return new, {"momentum": velocity}

    def fused(
        self,
        handle: tf.Tensor,
        slots: Mapping[str, tf.Tensor],
        gradient: tf.Tensor,
        scalars: Scalars,
    ) -> None:
        """One pass, in place."""
        tf.raw_ops.ResourceApplyMomentum(
            var=handle,
            accum=slots["momentum"],
            lr=scalars["learning_rate"],
            grad=gradient,
            momentum=scalars["momentum"],
            use_nesterov=self._nesterov,
        )
