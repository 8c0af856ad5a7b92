"""Lion."""

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


class Lion(Optimizer):
    """Lion: the sign of an interpolation between momentum and gradient.

    A sparse gradient is lazy by default; exactly, all rows with any momentum move by the learning
    rate (Keras).

    Args:
      learning_rate: a number or a schedule; 3 to 10 times smaller than Adam's.
      beta1: share of the momentum in the step, in [0, 1).
      beta2: decay of the momentum, in [0, 1).
      **options: see `Optimizer`; weight_decay 3 to 10 times larger than AdamW's.

    Raises:
      ValueError: if a number is out of range.

    Source: Chen et al. 2023, arXiv:2302.06675; `keras.optimizers.Lion`.
    """

    idle = MappingProxyType({"learning_rate": 0.0, "beta2": 1.0})

    def __init__(
        self,
        learning_rate: LearningRate = 1e-4,
        *,
        beta1: float = 0.9,
        beta2: float = 0.99,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self._beta1 = checks.number("Lion", "beta1", beta1, below=1.0)
        self._beta2 = checks.number("Lion", "beta2", beta2, below=1.0)

    def slots_for(self, name: str, shape: tf.TensorShape) -> Mapping[str, float]:
        """The momentum."""
        del name, shape
        return {"momentum": 0.0}

    def scalars(self, learning_rate: tf.Tensor, count: tf.Tensor, dtype: tf.DType) -> Scalars:
        """The betas."""
        del learning_rate, count, dtype
        constants = {"beta1": self._beta1, "beta2": self._beta2}
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
        """See `kernels.updates.lion`."""
        del trained
        new, momentum = updates.lion(parameter, gradient, slots["momentum"], **scalars, keep=keep)
        return new, {"momentum": momentum}
