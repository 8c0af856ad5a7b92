"""Lion."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from loop.optimizers import checks
from loop.optimizers.base import LearningRate, Optimizer
from loop.optimizers.rule import Keep, Rule, always


def lion_rule(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    momentum: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    beta1: tf.Tensor,
    beta2: tf.Tensor,
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Lion: `p - lr sign(b1 m + (1-b1) g)`, then `m = b2 m + (1-b2) g`.

    Returns:
      The new parameter and momentum.

    Source: Chen et al. 2023, arXiv:2302.06675, algorithm 2; `keras.optimizers.Lion`.
    """
    direction = tf.sign(momentum + (1 - beta1) * (gradient - momentum))
    momentum = keep(momentum + (1 - beta2) * (gradient - momentum), momentum)
    return parameter - learning_rate * direction, momentum


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

    def __init__(
        self,
        learning_rate: LearningRate = 1e-4,
        *,
        beta1: float = 0.9,
        beta2: float = 0.99,
        **options: Any,
    ) -> None:
        rule = Rule(
            lion_rule,
            slots={"momentum": 0.0},
            constants={
                "beta1": checks.number("Lion", "beta1", beta1, below=1.0),
                "beta2": checks.number("Lion", "beta2", beta2, below=1.0),
            },
            idle={"beta2": 1.0},
        )
        super().__init__(learning_rate, rule, **options)
