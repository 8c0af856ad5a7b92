"""RMSProp, plain, with momentum, centered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from kernels import updates
from kernels.updates import Keep
from loop.optimizers import checks
from loop.optimizers.base import LearningRate, Optimizer
from loop.optimizers.trained import Scalars, Slots, Trained


class RMSProp(Optimizer):
    """RMSProp: gradients over the root of their mean square, optionally with momentum.

    With momentum `w = mu w + lr g / sqrt(s + epsilon)`, `p - w`. A sparse gradient is lazy by
    default, as in compat.v1 (Keras: exact).

    Args:
      learning_rate: a number or a schedule.
      rho: decay of the mean square, in [0, 1).
      momentum: mu, in [0, 1).
      epsilon: inside the root; 1e-10 in compat.v1, 1e-7 in Keras.
      centered: whether the root is taken of the variance instead of the mean square.
      initial_mean_square: s before the first update; 1 in compat.v1, 0 in Keras.
      **options: see `Optimizer`.

    Raises:
      ValueError: if a number is out of range.

    Source: Hinton's lecture 6e; centered: Graves 2013, arXiv:1308.0850;
      `tf.compat.v1.train.RMSPropOptimizer`.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        *,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        initial_mean_square: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self._rho = checks.number("RMSProp", "rho", rho, below=1.0)
        self._momentum = checks.number("RMSProp", "momentum", momentum, below=1.0)
        self._epsilon = checks.number("RMSProp", "epsilon", epsilon)
        self._initial = checks.number("RMSProp", "initial_mean_square", initial_mean_square)
        self._centered = bool(centered)
        # The operations want a slot for the momentum, which plain RMSProp does without.
        self.has_fused = self._momentum > 0
        if self._momentum == 0:  # The momentum itself is a step.
            self.idle = {"learning_rate": 0.0, "rho": 1.0, "epsilon": 1.0}

    def slots_for(self, name: str, shape: tf.TensorShape) -> Mapping[str, float]:
        """The mean square; the mean if centered; the momentum if there is any."""
        del name, shape
        slots = {"mean_square": self._initial}
        if self._centered:
            slots["mean"] = 0.0
        if self._momentum > 0:
            slots["momentum"] = 0.0
        return slots

    def scalars(self, learning_rate: tf.Tensor, count: tf.Tensor, dtype: tf.DType) -> Scalars:
        """The decays and epsilon."""
        del learning_rate, count, dtype
        constants = {"rho": self._rho, "momentum": self._momentum, "epsilon": self._epsilon}
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
        """See `kernels.updates.rmsprop`."""
        del trained
        step, mean_square, mean = updates.rmsprop(
            gradient,
            slots["mean_square"],
            slots.get("mean"),
            learning_rate=scalars["learning_rate"],
            rho=scalars["rho"],
            epsilon=scalars["epsilon"],
            keep=keep,
        )
        new_slots = {"mean_square": mean_square}
        if mean is not None:
            new_slots["mean"] = mean
        if self._momentum > 0:
            step = keep(scalars["momentum"] * slots["momentum"] + step, slots["momentum"])
            new_slots["momentum"] = step
        return parameter - step, new_slots

    def fused(
        self,
        handle: tf.Tensor,
        slots: Mapping[str, tf.Tensor],
        gradient: tf.Tensor,
        scalars: Scalars,
    ) -> None:
        """One pass, in place."""
        arguments = {
            "var": handle,
            "ms": slots["mean_square"],
            "mom": slots["momentum"],
            "lr": scalars["learning_rate"],
            "rho": scalars["rho"],
            "momentum": scalars["momentum"],
            "epsilon": scalars["epsilon"],
            "grad": gradient,
        }
        if self._centered:
            tf.raw_ops.ResourceApplyCenteredRMSProp(mg=slots["mean"], **arguments)
        else:
            tf.raw_ops.ResourceApplyRMSProp(**arguments)
