"""Adam and its kin: AdamW, AMSGrad, Nadam."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import tensorflow as tf

from kernels import updates
from kernels.updates import Keep
from loop.optimizers import checks
from loop.optimizers.base import LearningRate, Optimizer, Sparse
from loop.optimizers.trained import Scalars, Slots, Trained

_IDLE = MappingProxyType({"learning_rate": 0.0, "beta1": 1.0, "beta2": 1.0, "epsilon": 1.0})


class Adam(Optimizer):
    """Adam, with epsilon outside the bias correction as in compat.v1 and Keras.

    A sparse gradient is exact by default, as in compat.v1 and Keras: the moments of all rows decay
    and all rows move. On a large embedding that is a pass over the whole table and both moments;
    `sparse="lazy"` touches the looked-up rows alone, and is another algorithm.

    Args:
      learning_rate: a number or a schedule.
      beta1: decay of the first moment, in [0, 1).
      beta2: decay of the second moment, in [0, 1).
      epsilon: added to the root of the second moment; 1e-8 in the paper and compat.v1, 1e-7 in
        Keras.
      **options: see `Optimizer`.

    Raises:
      ValueError: if a number is out of range.

    Source: Kingma and Ba 2015, arXiv:1412.6980; `tf.compat.v1.train.AdamOptimizer`.
    """

    default_sparse: ClassVar[Sparse] = "exact"
    has_fused = True
    idle = _IDLE | {"step_size": 0.0}

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        owner = type(self).__name__
        self._beta1 = checks.number(owner, "beta1", beta1, below=1.0)
        self._beta2 = checks.number(owner, "beta2", beta2, below=1.0)
        self._epsilon = checks.number(owner, "epsilon", epsilon)

    def slots_for(self, name: str, shape: tf.TensorShape) -> Mapping[str, float]:
        """The two moments."""
        del name, shape
        return {"m": 0.0, "v": 0.0}

    def scalars(self, learning_rate: tf.Tensor, count: tf.Tensor, dtype: tf.DType) -> Scalars:
        """The step size with both bias corrections, and the decays."""
        step_size = updates.adam_step_size(
            learning_rate,
            count,
            beta1=updates.rounded(self._beta1, dtype),
            beta2=updates.rounded(self._beta2, dtype),
        )
        constants = {"beta1": self._beta1, "beta2": self._beta2, "epsilon": self._epsilon}
        return {
            "step_size": step_size,
            **{name: tf.constant(value, tf.float64) for name, value in constants.items()},
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
        """See `kernels.updates.adam`."""
        del trained
        new, first, second = updates.adam(
            parameter, gradient, slots["m"], slots["v"], **_without_rate(scalars), keep=keep
        )
        return new, {"m": first, "v": second}

    def fused(
        self,
        handle: tf.Tensor,
        slots: Mapping[str, tf.Tensor],
        gradient: tf.Tensor,
        scalars: Scalars,
    ) -> None:
        """One pass, in place; the operation's own bias correction is given no work."""
        zero = tf.zeros([], gradient.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=handle,
            m=slots["m"],
            v=slots["v"],
            beta1_power=zero,
            beta2_power=zero,
            lr=scalars["step_size"],
            beta1=scalars["beta1"],
            beta2=scalars["beta2"],
            epsilon=scalars["epsilon"],
            grad=gradient,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay: `p - lr weight_decay p` besides Adam's step.

    Args:
      learning_rate: a number or a schedule.
      weight_decay: 0.004 in Keras, 0.01 in PyTorch.
      **options: see `Adam` and `Optimizer`; most mask biases and normalisation weights out by
        `weight_decay_mask`.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101; `keras.optimizers.AdamW`.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        *,
        weight_decay: float = 0.004,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **options)


class AMSGrad(Adam):
    """Adam whose denominator never shrinks; a third slot holds the largest second moment.

    Args:
      learning_rate: a number or a schedule.
      **options: see `Adam` and `Optimizer`.

    Source: Reddi et al. 2018, arXiv:1904.09237; `keras.optimizers.Adam(amsgrad=True)`.
    """

    def slots_for(self, name: str, shape: tf.TensorShape) -> Mapping[str, float]:
        """The two moments and the largest second one."""
        return {**super().slots_for(name, shape), "vhat": 0.0}

    def rule(
        self,
        trained: Trained,
        parameter: tf.Tensor,
        gradient: tf.Tensor,
        slots: Slots,
        scalars: Scalars,
        keep: Keep,
    ) -> tuple[tf.Tensor, Slots]:
        """See `kernels.updates.amsgrad`."""
        del trained
        new, first, second, largest = updates.amsgrad(
            parameter,
            gradient,
            slots["m"],
            slots["v"],
            slots["vhat"],
            **_without_rate(scalars),
            keep=keep,
        )
        return new, {"m": first, "v": second, "vhat": largest}

    def fused(
        self,
        handle: tf.Tensor,
        slots: Mapping[str, tf.Tensor],
        gradient: tf.Tensor,
        scalars: Scalars,
    ) -> None:
        """One pass, in place."""
        zero = tf.zeros([], gradient.dtype)
        tf.raw_ops.ResourceApplyAdamWithAmsgrad(
            var=handle,
            m=slots["m"],
            v=slots["v"],
            vhat=slots["vhat"],
            beta1_power=zero,
            beta2_power=zero,
            lr=scalars["step_size"],
            beta1=scalars["beta1"],
            beta2=scalars["beta2"],
            epsilon=scalars["epsilon"],
            grad=gradient,
        )


class Nadam(Adam):
    """Adam with Nesterov's momentum; epsilon added after the bias correction, as in Keras.

    Args:
      learning_rate: a number or a schedule.
      **options: see `Adam` and `Optimizer`.

    Source: Dozat 2016; `keras.optimizers.Nadam`, whose momentum schedule it has.
    """

    has_fused = False
    idle = _IDLE | {"momentum_share": 0.0}

    def scalars(self, learning_rate: tf.Tensor, count: tf.Tensor, dtype: tf.DType) -> Scalars:
        """The shares of momentum and gradient, the correction of v, the decays."""
        scalars = super().scalars(learning_rate, count, dtype)
        del scalars["step_size"]
        beta1, beta2 = updates.rounded(self._beta1, dtype), updates.rounded(self._beta2, dtype)
        momentum, gradient = updates.nadam_shares(learning_rate, count, beta1=beta1)
        correction = updates.one_minus_power(beta2, count)
        return scalars | {
            "momentum_share": momentum,
            "gradient_share": gradient,
            "correction": correction,
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
        """See `kernels.updates.nadam`."""
        del trained
        new, first, second = updates.nadam(
            parameter, gradient, slots["m"], slots["v"], **_without_rate(scalars), keep=keep
        )
        return new, {"m": first, "v": second}


def _without_rate(scalars: Scalars) -> Scalars:
    return {name: value for name, value in scalars.items() if name != "learning_rate"}
