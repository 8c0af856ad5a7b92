"""Adagrad and Adadelta."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from loop.optimizers import checks
from loop.optimizers.base import LearningRate, Optimizer
from loop.optimizers.rule import Keep, Rule, always


def adagrad_rule(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    accumulator: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    epsilon: tf.Tensor,
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Adagrad: `a += g^2`, `p - lr g / sqrt(a + epsilon)`.

    Epsilon is inside the root as in Keras; compat.v1 has none.

    Returns:
      The new parameter and accumulator.

    Source: Duchi et al. 2011; `tf.compat.v1.train.AdagradOptimizer`.
    """
    accumulator = keep(accumulator + tf.square(gradient), accumulator)
    return parameter - learning_rate * gradient / tf.sqrt(accumulator + epsilon), accumulator


def _fused_adagrad(
    handle: tf.Tensor,
    gradient: tf.Tensor,
    accumulator: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    epsilon: tf.Tensor,
) -> None:
    del epsilon  # 0: see `Adagrad`
    tf.raw_ops.ResourceApplyAdagrad(var=handle, accum=accumulator, lr=learning_rate, grad=gradient)


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

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        *,
        initial_accumulator: float = 0.1,
        epsilon: float = 0.0,
        **options: Any,
    ) -> None:
        initial = checks.number("Adagrad", "initial_accumulator", initial_accumulator)
        epsilon = checks.number("Adagrad", "epsilon", epsilon)
        if initial == 0 and epsilon == 0:
            raise ValueError(
                "Adagrad: initial_accumulator and epsilon are both 0, where a zero gradient gives "
                "NaN; make one of them positive"
            )
        rule = Rule(
            adagrad_rule,
            slots={"accumulator": initial},
            constants={"epsilon": epsilon},
            # The operation has no epsilon inside the root.
            fused=_fused_adagrad if epsilon == 0 else None,
            idle={},
        )
        super().__init__(learning_rate, rule, **options)


def adadelta_rule(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    mean_square: tf.Tensor,
    step_square: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    rho: tf.Tensor,
    epsilon: tf.Tensor,
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Adadelta: the step is `g sqrt(u + epsilon) / sqrt(s + epsilon)`, u the mean of its squares.

    Returns:
      The new parameter, mean of the gradient's squares s and of the step's squares u.

    Source: Zeiler 2012, arXiv:1212.5701; `tf.compat.v1.train.AdadeltaOptimizer`.
    """
    mean_square = keep(mean_square + (1 - rho) * (tf.square(gradient) - mean_square), mean_square)
    step = gradient * tf.sqrt(step_square + epsilon) / tf.sqrt(mean_square + epsilon)
    step_square = keep(step_square + (1 - rho) * (tf.square(step) - step_square), step_square)
    return parameter - learning_rate * step, mean_square, step_square


def _fused_adadelta(
    handle: tf.Tensor,
    gradient: tf.Tensor,
    mean_square: tf.Tensor,
    step_square: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    rho: tf.Tensor,
    epsilon: tf.Tensor,
) -> None:
    tf.raw_ops.ResourceApplyAdadelta(
        var=handle,
        accum=mean_square,
        accum_update=step_square,
        lr=learning_rate,
        rho=rho,
        epsilon=epsilon,
        grad=gradient,
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

    def __init__(
        self,
        learning_rate: LearningRate = 1.0,
        *,
        rho: float = 0.95,
        epsilon: float = 1e-8,
        **options: Any,
    ) -> None:
        rho = checks.number("Adadelta", "rho", rho, below=1.0)
        epsilon = checks.number("Adadelta", "epsilon", epsilon)
        if epsilon == 0:
            raise ValueError(
                "Adadelta: epsilon is 0, where the first step has no length and so no later one; "
                "make it positive"
            )
        rule = Rule(
            adadelta_rule,
            slots={"accumulator": 0.0, "step_accumulator": 0.0},
            constants={"rho": rho, "epsilon": epsilon},
            fused=_fused_adadelta,
            idle={"rho": 1.0, "epsilon": 1.0},
        )
        super().__init__(learning_rate, rule, **options)
