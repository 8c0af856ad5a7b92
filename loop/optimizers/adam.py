"""Adam and its variants: AdamW, AMSGrad, Nadam."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from loop.optimizers import checks
from loop.optimizers.base import LearningRate, Optimizer, Sparse
from loop.optimizers.bias_correction import one_minus_power, rounded
from loop.optimizers.rule import Keep, Rule, always

_IDLE = {"beta1": 1.0, "beta2": 1.0, "epsilon": 1.0}


def moments(
    gradient: tf.Tensor,
    first: tf.Tensor,
    second: tf.Tensor,
    *,
    beta1: tf.Tensor,
    beta2: tf.Tensor,
    keep: Keep,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The decaying means of the gradient and of its square."""
    first = keep(first + (1 - beta1) * (gradient - first), first)
    return first, keep(second + (1 - beta2) * (tf.square(gradient) - second), second)


def adam_rule(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    first: tf.Tensor,
    second: tf.Tensor,
    *,
    step_size: tf.Tensor,
    beta1: tf.Tensor,
    beta2: tf.Tensor,
    epsilon: tf.Tensor,
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Adam: `m += (1-b1)(g-m)`, `v += (1-b2)(g^2-v)`, `p - step_size m / (sqrt(v) + epsilon)`.

    Epsilon is the paper's "epsilon hat" (the form before section 2.1), as in compat.v1 and Keras:
    it is added to the root of the uncorrected v.

    Args:
      parameter: any shape.
      gradient: same shape.
      first: m, same shape.
      second: v, same shape.
      step_size: the learning rate with both bias corrections, see `adam_step_size`.
      beta1: decay of m.
      beta2: decay of v.
      epsilon: added to the root.
      keep: see `Keep`.

    Returns:
      The new parameter, m and v.

    Source: Kingma and Ba 2015, arXiv:1412.6980; `tf.compat.v1.train.AdamOptimizer`.
    """
    first, second = moments(gradient, first, second, beta1=beta1, beta2=beta2, keep=keep)
    return parameter - step_size * first / (tf.sqrt(second) + epsilon), first, second


def adam_step_size(
    learning_rate: tf.Tensor, count: tf.Tensor, dtype: tf.DType, *, beta1: float, beta2: float
) -> dict[str, tf.Tensor]:
    """`Rule.derived` of Adam, `lr sqrt(1 - b2^t) / (1 - b1^t)`: the rate with both corrections.

    Args:
      learning_rate: scalar float64.
      count: t, scalar float64: this update's number, from 1.
      dtype: what the moments are kept in.
      beta1: decay of m.
      beta2: decay of v.

    Returns:
      "step_size", a float64 scalar.
    """
    of_second = one_minus_power(rounded(beta2, dtype), count)
    correction = tf.sqrt(of_second) / one_minus_power(rounded(beta1, dtype), count)
    return {"step_size": learning_rate * correction}


def _fused_adam(
    handle: tf.Tensor,
    gradient: tf.Tensor,
    first: tf.Tensor,
    second: tf.Tensor,
    *largest: tf.Tensor,
    step_size: tf.Tensor,
    **scalars: tf.Tensor,
) -> None:
    """Adam's operation, AMSGrad's with `largest`; its own bias correction is given no work."""
    zero = tf.zeros([], gradient.dtype)
    arguments = {
        "var": handle,
        "m": first,
        "v": second,
        "beta1_power": zero,
        "beta2_power": zero,
        "lr": step_size,
        "grad": gradient,
        **scalars,
    }
    if largest:
        tf.raw_ops.ResourceApplyAdamWithAmsgrad(vhat=largest[0], **arguments)
    else:
        tf.raw_ops.ResourceApplyAdam(**arguments)


class Adam(Optimizer):
    """Adam, with epsilon outside the bias correction as in compat.v1 and Keras.

    A sparse gradient is exact by default, as in compat.v1 and Keras: the moments of all rows decay
    and all rows move. On a large embedding that is a pass over the whole table and both moments;
    `sparse="lazy"` changes only the looked-up rows, and is another algorithm.

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

    sparse_forms: ClassVar[tuple[Sparse, ...]] = ("exact", "lazy")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        **options: Any,
    ) -> None:
        owner = type(self).__name__
        rule = self._rule_of(
            beta1=checks.number(owner, "beta1", beta1, below=1.0),
            beta2=checks.number(owner, "beta2", beta2, below=1.0),
            epsilon=checks.number(owner, "epsilon", epsilon),
        )
        super().__init__(learning_rate, rule, **options)

    def _rule_of(self, **constants: float) -> Rule:
        betas = {name: constants[name] for name in ("beta1", "beta2")}
        return Rule(
            adam_rule,
            slots={"m": 0.0, "v": 0.0},
            constants=constants,
            derived=functools.partial(adam_step_size, **betas),
            fused=_fused_adam,
            idle={**_IDLE, "step_size": 0.0},
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


def amsgrad_rule(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    first: tf.Tensor,
    second: tf.Tensor,
    largest: tf.Tensor,
    *,
    step_size: tf.Tensor,
    beta1: tf.Tensor,
    beta2: tf.Tensor,
    epsilon: tf.Tensor,
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Adam divided by the root of the largest v so far, uncorrected: `vhat = max(vhat, v)`.

    Args: as `adam_rule`'s, and
      largest: vhat, same shape.

    Returns:
      The new parameter, m, v and vhat.

    Source: Reddi et al. 2018, arXiv:1904.09237; `keras.optimizers.Adam(amsgrad=True)`.
    """
    first, second = moments(gradient, first, second, beta1=beta1, beta2=beta2, keep=keep)
    largest = keep(tf.maximum(largest, second), largest)
    new = parameter - step_size * first / (tf.sqrt(largest) + epsilon)
    return new, first, second, largest


class AMSGrad(Adam):
    """Adam whose denominator never shrinks; a third slot holds the largest second moment.

    Args:
      learning_rate: a number or a schedule.
      **options: see `Adam` and `Optimizer`.

    Source: Reddi et al. 2018, arXiv:1904.09237; `keras.optimizers.Adam(amsgrad=True)`.
    """

    def _rule_of(self, **constants: float) -> Rule:
        adam = super()._rule_of(**constants)
        return dataclasses.replace(adam, function=amsgrad_rule, slots={**adam.slots, "vhat": 0.0})


def nadam_rule(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    first: tf.Tensor,
    second: tf.Tensor,
    *,
    momentum_share: tf.Tensor,
    gradient_share: tf.Tensor,
    correction: tf.Tensor,
    beta1: tf.Tensor,
    beta2: tf.Tensor,
    epsilon: tf.Tensor,
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Adam with Nesterov's momentum, epsilon added after the bias correction.

    `p - (momentum_share m + gradient_share g) / (sqrt(v / correction) + epsilon)`, the shares with
    the learning rate and the momentum schedule in them, see `nadam_shares`.

    Returns:
      The new parameter, m and v.

    Source: Dozat 2016; `keras.optimizers.Nadam`.
    """
    first, second = moments(gradient, first, second, beta1=beta1, beta2=beta2, keep=keep)
    step = momentum_share * first + gradient_share * gradient
    return parameter - step / (tf.sqrt(second / correction) + epsilon), first, second


# Above this count the factor 1 - 0.96^i / 2 of the momentum schedule is 1 in float64.
_SCHEDULED_MOMENTA = 1000


def nadam_shares(
    learning_rate: tf.Tensor, count: tf.Tensor, *, beta1: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """The weights of m and of the gradient in Nadam's step, with the learning rate.

    The momentum schedule is `mu_i = beta1 (1 - 0.96^i / 2)`, as in Keras (the paper slows it by
    250). Its product over the updates done has the closed form `beta1^t P(t)` with a P that is
    constant from 1000 on, so no running product is kept.

    Args:
      learning_rate: scalar float64.
      count: t, scalar float64, from 1.
      beta1: decay of m.

    Returns:
      Two float64 scalars.
    """
    factors = 1 - 0.5 * 0.96 ** np.arange(1, _SCHEDULED_MOMENTA + 2)
    products = tf.constant(np.cumprod(factors))
    capped = tf.cast(tf.minimum(count, _SCHEDULED_MOMENTA), tf.int32)
    now = beta1 * tf.gather(tf.constant(factors), capped - 1)
    after = beta1 * tf.gather(tf.constant(factors), capped)
    power = 1 - one_minus_power(beta1, count)
    product = power * tf.gather(products, capped - 1)
    share = learning_rate * after / (1 - product * after)
    return share, learning_rate * (1 - now) / (1 - product)


def _nadam_scalars(
    learning_rate: tf.Tensor, count: tf.Tensor, dtype: tf.DType, *, beta1: float, beta2: float
) -> dict[str, tf.Tensor]:
    """`Rule.derived`: the shares of momentum and gradient, the correction of v."""
    momentum, gradient = nadam_shares(learning_rate, count, beta1=rounded(beta1, dtype))
    correction = one_minus_power(rounded(beta2, dtype), count)
    return {"momentum_share": momentum, "gradient_share": gradient, "correction": correction}


class Nadam(Adam):
    """Adam with Nesterov's momentum; epsilon added after the bias correction, as in Keras.

    Args:
      learning_rate: a number or a schedule.
      **options: see `Adam` and `Optimizer`.

    Source: Dozat 2016; `keras.optimizers.Nadam`, whose momentum schedule it has.
    """

    def _rule_of(self, **constants: float) -> Rule:
        betas = {name: constants[name] for name in ("beta1", "beta2")}
        return Rule(
            nadam_rule,
            slots={"m": 0.0, "v": 0.0},
            constants=constants,
            derived=functools.partial(_nadam_scalars, **betas),
            idle={**_IDLE, "momentum_share": 0.0},
        )
