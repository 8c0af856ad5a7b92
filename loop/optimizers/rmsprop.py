"""RMSProp, plain, with momentum, centered."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from loop.optimizers import checks
from loop.optimizers.base import LearningRate, Optimizer
from loop.optimizers.rule import Keep, Rule, always


def rmsprop_rule(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    mean_square: tf.Tensor,
    *slots: tf.Tensor,
    learning_rate: tf.Tensor,
    rho: tf.Tensor,
    momentum: tf.Tensor,
    epsilon: tf.Tensor,
    centered: bool,
    keep: Keep = always,
) -> tuple[tf.Tensor, ...]:
    """RMSProp: `s += (1-rho)(g^2-s)`, `p - lr g / sqrt(s + epsilon)`.

    Centered, the root is of `s - mean^2 + epsilon`. With momentum `w = mu w + lr g / sqrt(...)`,
    `p - w`. Epsilon is inside the root, as in compat.v1 and Keras.

    Args:
      parameter: any shape.
      gradient: same shape.
      mean_square: s, same shape.
      *slots: the mean if centered, then w if there is momentum; same shape.
      learning_rate: scalar.
      rho: decay of the means.
      momentum: mu.
      epsilon: added inside the root.
      centered: whether the mean is subtracted.
      keep: see `Keep`.

    Returns:
      The new parameter, mean square and other slots.

    Source: Hinton's lecture 6e; centered: Graves 2013, arXiv:1308.0850, eq. 38 to 45;
      `tf.compat.v1.train.RMSPropOptimizer`.
    """
    mean_square = keep(mean_square + (1 - rho) * (tf.square(gradient) - mean_square), mean_square)
    variance, new_slots = mean_square, [mean_square]
    if centered:
        mean, slots = keep(slots[0] + (1 - rho) * (gradient - slots[0]), slots[0]), slots[1:]
        variance = mean_square - tf.square(mean)
        new_slots.append(mean)
    step = learning_rate * gradient / tf.sqrt(variance + epsilon)
    if slots:
        step = keep(momentum * slots[0] + step, slots[0])
        new_slots.append(step)
    return parameter - step, *new_slots


def _fused_rmsprop(
    handle: tf.Tensor,
    gradient: tf.Tensor,
    mean_square: tf.Tensor,
    *slots: tf.Tensor,
    learning_rate: tf.Tensor,
    centered: bool,
    **scalars: tf.Tensor,
) -> None:
    arguments = {
        "var": handle,
        "ms": mean_square,
        "mom": slots[-1],
        "lr": learning_rate,
        "grad": gradient,
        **scalars,
    }
    if centered:
        tf.raw_ops.ResourceApplyCenteredRMSProp(mg=slots[0], **arguments)
    else:
        tf.raw_ops.ResourceApplyRMSProp(**arguments)


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
        constants = {
            "rho": checks.number("RMSProp", "rho", rho, below=1.0),
            "momentum": checks.number("RMSProp", "momentum", momentum, below=1.0),
            "epsilon": checks.number("RMSProp", "epsilon", epsilon),
        }
        slots = {
            "mean_square": checks.number("RMSProp", "initial_mean_square", initial_mean_square)
        }
        if centered:
            slots["mean"] = 0.0
        if momentum > 0:
            slots["momentum"] = 0.0
        fused = functools.partial(_fused_rmsprop, centered=bool(centered))
        rule = Rule(
            functools.partial(rmsprop_rule, centered=bool(centered)),
            slots=slots,
            constants=constants,
            # The operations want a slot for the momentum, which plain RMSProp does without.
            fused=fused if momentum > 0 else None,
            # The momentum is a step, which no scalar keeps from being taken again.
            idle=None if momentum > 0 else {"rho": 1.0, "epsilon": 1.0},
        )
        super().__init__(learning_rate, rule, **options)
