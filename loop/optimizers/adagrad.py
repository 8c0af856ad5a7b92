"""Adagrad and Adadelta."""

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


class Adagrad(Optimizer):
    """Adagrad: `a += g^2`, `p - lr g / sqrt(a + epsilon)`.

    A sparse gradient means the same lazily and exactly, but for weight decay.

    Args:
      learning_rate: a number or a schedule.
      initial_accumulator: a before the first update; 0.1 in compat.v1 and Keras.
      epsilon: inside the root; 0 in compat.v1, 1e-7 in Keras.
      **options: see `Optimizer`.

    Raises:
      ValueError: if a number is out of range, or both initial_accumulator and epsilon are 0.

    Source: Duchi et al. 2011; `tf.compat.v1.train.AdagradOptimizer`.
    """

    idle = MappingProxyType({"learning_rate": 0.0})

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        *,
        initial_accumulator: float = 0.1,
        epsilon: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self._initial = checks.number("Adagrad", "initial_accumulator", initial_accumulator)
        self._epsilon = checks.number("Adagrad", "epsilon", epsilon)
        if self._initial == 0 and self._epsilon == 0:
            raise ValueError(
                "Adagrad: initial_accumulator and epsilon are both 0, where a zero gradient gives "
                "NaN; make one of them positive"
            )
        # The operation has no epsilon inside the root.
        self.has_fused = self._epsilon == 0

    def slots_for(self, name: str, shape: tf.TensorShape) -> Mapping[str, float]:
        """The sum of squares."""
        del name, shape
        return {"accumulator": self._initial}

    def scalars(self, learning_rate: tf.Tensor, count: tf.Tensor, dtype: tf.DType) -> Scalars:
        """Epsilon."""
        del learning_rate, count, dtype
        return {"epsilon": tf.constant(self._epsilon, tf.float64)}

    def rule(
        self,
        trained: Trained,
        parameter: tf.Tensor,
        gradient: tf.Tensor,
        slots: Slots,
        scalars: Scalars,
        keep: Keep,
    ) -> tuple[tf.Tensor, Slots]:
        """See `kernels.updates.adagrad`."""
        del trained
        new, accumulator = updates.adagrad(
            parameter, gradient, slots["accumulator"], **scalars, keep=keep
        )
        return new, {"accumulator": accumulator}

    def fused(
        self,
        handle: tf.Tensor,
        slots: Mapping[str, tf.Tensor],
        gradient: tf.Tensor,
        scalars: Scalars,
    ) -> None:
        """One pass, in place."""
        tf.raw_ops.ResourceApplyAdagrad(
            var=handle, accum=slots["accumulator"], lr=scalars["learning_rate"], grad=gradient
        )


class Adadelta(Optimizer):
    """Adadelta: steps in units of earlier steps.

    A sparse gradient is lazy by default, as in compat.v1 (Keras: exact).

    Args:
      learning_rate: a number or a schedule; 1 in the paper, 0.001 in compat.v1 and Keras.
      rho: decay of both means of squares, in [0, 1).
      epsilon: inside both roots, above 0; 1e-8 in compat.v1, 1e-7 in Keras.
      **options: see `Optimizer`.

    Raises:
      ValueError: if a number is out of range.

    Source: Zeiler 2012, arXiv:1212.5701; `tf.compat.v1.train.AdadeltaOptimizer`.
    """

    has_fused = True
    idle = MappingProxyType({"learning_rate": 0.0, "rho": 1.0, "epsilon": 1.0})

    def __init__(
        self,
        learning_rate: LearningRate = 1.0,
        *,
        rho: float = 0.95,
        epsilon: float = 1e-8,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self._rho = checks.number("Adadelta", "rho", rho, below=1.0)
        self._epsilon = checks.number("Adadelta", "epsilon", epsilon)
        if self._epsilon == 0:
            raise ValueError(
                "Adadelta: epsilon is 0, where the first step has no length and so no later one; "
                "make it positive"
            )

    def slots_for(self, name: str, shape: tf.TensorShape) -> Mapping[str, float]:
        """The mean squares of gradients and of steps."""
        del name, shape
        return {"accumulator": 0.0, "step_accumulator": 0.0}

    def scalars(self, learning_rate: tf.Tensor, count: tf.Tensor, dtype: tf.DType) -> Scalars:
        """The decay and epsilon."""
        del learning_rate, count, dtype
        constants = {"rho": self._rho, "epsilon": self._epsilon}
        return {name: tf.constant(value, tf.float64) for name, value in constants.items()}

    def rule(
        self,
        trained: Trained,
        parameter: tf.Tensor,
        gradient: tf.Tensor,
        slots: Slots,
        scalars: Scalars,
        keep: Keep,
    ) -> tuple[tf.Tensor, Slots]:
        """See `kernels.updates.adadelta`."""
        del trained
        new, gradients, steps = updates.adadelta(
            parameter,
            gradient,
            slots["accumulator"],
            slots["step_accumulator"],
            **scalars,
            keep=keep,
        )
        return new, {"accumulator": gradients, "step_accumulator": steps}

    def fused(
        self,
        handle: tf.Tensor,
        slots: Mapping[str, tf.Tensor],
        gradient: tf.Tensor,
        scalars: Scalars,
    ) -> None:
        """One pass, in place."""
        tf.raw_ops.ResourceApplyAdadelta(
            var=handle,
            accum=slots["accumulator"],
            accum_update=slots["step_accumulator"],
            lr=scalars["learning_rate"],
            rho=scalars["rho"],
            epsilon=scalars["epsilon"],
            grad=gradient,
        )
