"""Gradient descent and momentum."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from loop.optimizers import checks
from loop.optimizers.base import LearningRate, Optimizer
from loop.optimizers.rule import Keep, Rule, always


def sgd_rule(
    parameter: tf.Tensor, gradient: tf.Tensor, *, learning_rate: tf.Tensor, keep: Keep = always
) -> tuple[tf.Tensor]:
    """Gradient descent: `p - lr g`.

    Source: `tf.compat.v1.train.GradientDescentOptimizer`.
    """
    del keep
    return (parameter - learning_rate * gradient,)


def _fused_sgd(handle: tf.Tensor, gradient: tf.Tensor, *, learning_rate: tf.Tensor) -> None:
    tf.raw_ops.ResourceApplyGradientDescent(var=handle, alpha=learning_rate, delta=gradient)


class SGD(Optimizer):
    """Gradient descent: `p - lr g`.

    A sparse gradient means the same lazily and exactly, but for weight decay.

    Args:
      learning_rate: a number or a schedule.
      **options: see `Optimizer`.

    Source: `tf.compat.v1.train.GradientDescentOptimizer`, `keras.optimizers.SGD`.
    """

    def __init__(self, learning_rate: LearningRate = 0.01, **options: Any) -> None:
        super().__init__(learning_rate, Rule(sgd_rule, fused=_fused_sgd, idle={}), **options)


def momentum_rule(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    velocity: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    momentum: tf.Tensor,
    nesterov: bool = False,
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Momentum: `v = mu v + g`, `p - lr v`; with nesterov `p - lr (g + mu v)`.

    The velocity holds gradients, as in compat.v1: a new rate acts immediately. Keras's holds
    steps (`v = mu v - lr g`), which is the same only while the learning rate is constant.

    Returns:
      The new parameter and velocity.

    Source: Sutskever et al. 2013; `tf.compat.v1.train.MomentumOptimizer`.
    """
    velocity = keep(momentum * velocity + gradient, velocity)
    step = gradient + momentum * velocity if nesterov else velocity
    return parameter - learning_rate * step, velocity


def _fused_momentum(
    handle: tf.Tensor,
    gradient: tf.Tensor,
    velocity: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    momentum: tf.Tensor,
    nesterov: bool,
) -> None:
    tf.raw_ops.ResourceApplyMomentum(
        var=handle,
        accum=velocity,
        lr=learning_rate,
        grad=gradient,
        momentum=momentum,
        use_nesterov=nesterov,
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

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        momentum: float = 0.9,
        *,
        nesterov: bool = False,
        **options: Any,
    ) -> None:
        rule = Rule(
            functools.partial(momentum_rule, nesterov=bool(nesterov)),
            slots={"momentum": 0.0},
            constants={"momentum": checks.number("Momentum", "momentum", momentum, below=1.0)},
            fused=functools.partial(_fused_momentum, nesterov=bool(nesterov)),
            idle={"momentum": 1.0},
        )
        super().__init__(learning_rate, rule, **options)
