"""LARS and LAMB: learning rates scaled by each layer's norms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import tensorflow as tf

from kernels import layerwise_updates, updates
from kernels.updates import Keep
from loop.optimizers import checks
from loop.optimizers.base import LearningRate, Optimizer, Sparse
from loop.optimizers.trained import Scalars, Slots, Trained


class LARS(Optimizer):
    """Momentum with each layer's learning rate scaled by `trust |p| / (|g| + weight_decay |p|)`.

    Weight decay is coupled: it is part of the gradient that the momentum gathers. A sparse
    gradient is exact, for the norms are the whole layer's.

    Args:
      learning_rate: a number or a schedule.
      momentum: mu, in [0, 1).
      trust: the paper's coefficient eta.
      nesterov: whether to look ahead.
      adapt_mask: which variables are scaled: a function of the name, or a pattern. None: all.
        Biases and normalisation weights are usually left out, of the decay too.
      **options: see `Optimizer`.

    Raises:
      ValueError: if a number is out of range.

    Source: You et al. 2017, arXiv:1708.03888.
    """

    default_sparse: ClassVar[Sparse] = "exact"
    allowed_sparse: ClassVar[tuple[Sparse, ...]] = ("exact",)
    decoupled_decay: ClassVar[bool] = False

    def __init__(
        self,
        learning_rate: LearningRate = 0.1,
        momentum: float = 0.9,
        *,
        trust: float = 0.001,
        nesterov: bool = False,
        adapt_mask: Callable[[str], bool] | str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self._momentum = checks.number("LARS", "momentum", momentum, below=1.0)
        self._trust = checks.number("LARS", "trust", trust)
        self._nesterov = bool(nesterov)
        self._adapts = checks.predicate("LARS", "adapt_mask", adapt_mask)

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
        """See `kernels.layerwise_updates.lars`."""
        new, velocity = layerwise_updates.lars(
            parameter,
            gradient,
            slots["momentum"],
            weight_decay=trained.weight_decay,
            trust=self._trust if self._adapts(trained.name) else None,
            nesterov=self._nesterov,
            **scalars,
            keep=keep,
        )
        return new, {"momentum": velocity}


class LAMB(Optimizer):
    """Adam's direction plus weight decay, scaled to the norm of the layer's weights.

    Weight decay is inside the scaled step, as in the paper (Keras's Lamb decays outside). A sparse
    gradient is exact, for the norms are the whole layer's.

    Args:
      learning_rate: a number or a schedule.
      beta1: decay of the first moment, in [0, 1).
      beta2: decay of the second moment, in [0, 1).
      epsilon: added to the root of the corrected second moment.
      adapt_mask: which variables are scaled: a function of the name, or a pattern. None: all.
      **options: see `Optimizer`.

    Raises:
      ValueError: if a number is out of range.

    Source: You et al. 2020, arXiv:1904.00962, algorithm 2, with phi(z) = z.
    """

    default_sparse: ClassVar[Sparse] = "exact"
    allowed_sparse: ClassVar[tuple[Sparse, ...]] = ("exact",)
    decoupled_decay: ClassVar[bool] = False

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-6,
        adapt_mask: Callable[[str], bool] | str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self._beta1 = checks.number("LAMB", "beta1", beta1, below=1.0)
        self._beta2 = checks.number("LAMB", "beta2", beta2, below=1.0)
        self._epsilon = checks.number("LAMB", "epsilon", epsilon)
        self._adapts = checks.predicate("LAMB", "adapt_mask", adapt_mask)

    def slots_for(self, name: str, shape: tf.TensorShape) -> Mapping[str, float]:
        """The two moments."""
        del name, shape
        return {"m": 0.0, "v": 0.0}

    def scalars(self, learning_rate: tf.Tensor, count: tf.Tensor, dtype: tf.DType) -> Scalars:
        """The decays, epsilon and both bias corrections."""
        del learning_rate
        constants = {"beta1": self._beta1, "beta2": self._beta2, "epsilon": self._epsilon}
        beta1, beta2 = updates.rounded(self._beta1, dtype), updates.rounded(self._beta2, dtype)
        return {
            **{name: tf.constant(value, tf.float64) for name, value in constants.items()},
            "correction1": updates.one_minus_power(beta1, count),
            "correction2": updates.one_minus_power(beta2, count),
        }

    def rule(
        self,
        trained: Trained,
        parameter: tf.Tensor,
        gradient: tf.Tensor,
        slots: Slots,
        scalars: Scalars,
        keep: Keep,
    ) -> tuple[tf.Tensor, Slots]:
        """See `kernels.layerwise_updates.lamb`."""
        new, first, second = layerwise_updates.lamb(
            parameter,
            gradient,
            slots["m"],
            slots["v"],
            weight_decay=trained.weight_decay,
            adapt=self._adapts(trained.name),
            **scalars,
            keep=keep,
        )
        return new, {"m": first, "v": second}
