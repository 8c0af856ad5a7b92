"""LARS and LAMB: learning rates scaled by each layer's norms.

The norms are of a whole variable, so that the rules have no form for a few rows of it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import tensorflow as tf

from loop.optimizers import checks
from loop.optimizers.adam import moments
from loop.optimizers.base import LearningRate, Optimizer, Sparse
from loop.optimizers.bias_correction import one_minus_power, rounded
from loop.optimizers.rule import Keep, Rule, always


def _norm(values: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(tf.reduce_sum(tf.square(values)))


def _ratio(numerator: tf.Tensor, denominator: tf.Tensor) -> tf.Tensor:
    """Their quotient; 1 where either is 0: a layer at zero must be able to leave it."""
    both = (numerator > 0) & (denominator > 0)
    return tf.where(both, numerator / denominator, tf.ones_like(numerator))


def lars_rule(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    velocity: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    momentum: tf.Tensor,
    weight_decay: float,
    trust: float | None,
    nesterov: bool = False,
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor]:
    """LARS: momentum whose learning rate is scaled by the layer's ratio of norms.

    `r = trust |p| / (|g| + weight_decay |p|)`, `v = mu v + lr r (g + weight_decay p)`, `p - v`. The
    velocity holds steps, as in the paper. The ratio is 1 where one of the norms is 0.

    Args:
      parameter: any shape.
      gradient: same shape.
      velocity: v, same shape.
      learning_rate: scalar.
      momentum: mu, scalar.
      weight_decay: coupled decay.
      trust: the paper's trust coefficient eta; None leaves the ratio out (r = 1).
      nesterov: whether the step is `mu v + lr r (g + weight_decay p)`.
      keep: see `Keep`.

    Returns:
      The new parameter and velocity.

    Source: You et al. 2017, arXiv:1708.03888, algorithm 1.
    """
    step = learning_rate * (gradient + weight_decay * parameter)
    if trust is not None:
        weight_norm, gradient_norm = _norm(parameter), _norm(gradient)
        denominator = gradient_norm + weight_decay * weight_norm
        step *= _ratio(trust * weight_norm, denominator)
    velocity = keep(momentum * velocity + step, velocity)
    return parameter - (momentum * velocity + step if nesterov else velocity), velocity


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

    sparse_forms: ClassVar[tuple[Sparse, ...]] = ("exact",)

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
        rule = Rule(
            functools.partial(lars_rule, nesterov=bool(nesterov)),
            slots={"momentum": 0.0},
            constants={"momentum": checks.number("LARS", "momentum", momentum, below=1.0)},
            decoupled_decay=False,
        )
        super().__init__(learning_rate, rule, **options)
        self._trust = checks.number("LARS", "trust", trust)
        self._adapts = checks.predicate("LARS", "adapt_mask", adapt_mask)

    def rule_for(self, name: str, shape: tf.TensorShape, weight_decay: float) -> Rule:
        """With the variable's decay, and its trust if the mask has it."""
        del shape
        trust = self._trust if self._adapts(name) else None
        function = functools.partial(self._rule.function, weight_decay=weight_decay, trust=trust)
        return dataclasses.replace(self._rule, function=function)


def lamb_rule(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    first: tf.Tensor,
    second: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    beta1: tf.Tensor,
    beta2: tf.Tensor,
    epsilon: tf.Tensor,
    correction1: tf.Tensor,
    correction2: tf.Tensor,
    weight_decay: float,
    adapt: bool = True,
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """LAMB: Adam's direction and the decay, scaled to the norm of the layer's weights.

    `u = (m / c1) / (sqrt(v / c2) + epsilon) + weight_decay p`, `p - lr |p| / |u| u`. The ratio is 1
    where one of the norms is 0. Keras's Lamb decays outside the ratio.

    Args:
      parameter: any shape.
      gradient: same shape.
      first: m, same shape.
      second: v, same shape.
      learning_rate: scalar.
      beta1: decay of m.
      beta2: decay of v.
      epsilon: added to the corrected root.
      correction1: `1 - b1^t`.
      correction2: `1 - b2^t`.
      weight_decay: inside the ratio.
      adapt: False leaves the ratio out.
      keep: see `Keep`.

    Returns:
      The new parameter, m and v.

    Source: You et al. 2020, arXiv:1904.00962, algorithm 2.
    """
    first, second = moments(gradient, first, second, beta1=beta1, beta2=beta2, keep=keep)
    step = (first / correction1) / (tf.sqrt(second / correction2) + epsilon)
    step += weight_decay * parameter
    if adapt:
        step *= _ratio(_norm(parameter), _norm(step))
    return parameter - learning_rate * step, first, second


def _lamb_scalars(
    learning_rate: tf.Tensor, count: tf.Tensor, dtype: tf.DType, *, beta1: float, beta2: float
) -> dict[str, tf.Tensor]:
    """`Rule.derived`: the learning rate and both bias corrections."""
    return {
        "learning_rate": learning_rate,
        "correction1": one_minus_power(rounded(beta1, dtype), count),
        "correction2": one_minus_power(rounded(beta2, dtype), count),
    }


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

    sparse_forms: ClassVar[tuple[Sparse, ...]] = ("exact",)

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
        betas = {
            "beta1": checks.number("LAMB", "beta1", beta1, below=1.0),
            "beta2": checks.number("LAMB", "beta2", beta2, below=1.0),
        }
        rule = Rule(
            lamb_rule,
            slots={"m": 0.0, "v": 0.0},
            constants={**betas, "epsilon": checks.number("LAMB", "epsilon", epsilon)},
            derived=functools.partial(_lamb_scalars, **betas),
            decoupled_decay=False,
        )
        super().__init__(learning_rate, rule, **options)
        self._adapts = checks.predicate("LAMB", "adapt_mask", adapt_mask)

    def rule_for(self, name: str, shape: tf.TensorShape, weight_decay: float) -> Rule:
        """With the variable's decay, scaled if the mask has it."""
        del shape
        function = functools.partial(lamb_rule, weight_decay=weight_decay, adapt=self._adapts(name))
        return dataclasses.replace(self._rule, function=function)
