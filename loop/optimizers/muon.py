"""Muon, with AdamW for what is no hidden matrix."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from loop.optimizers import checks
from loop.optimizers.adam import adam_rule, adam_step_size
from loop.optimizers.base import LearningRate, Optimizer
from loop.optimizers.rule import Keep, Rule, always


def muon_rule(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    velocity: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    momentum: tf.Tensor,
    iterations: int,
    nesterov: bool,
    rms: float | None,
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Muon: momentum whose step is made orthogonal: `v = mu v + g`, `p - lr scale orth(g + mu v)`.

    Args:
      parameter: rank 2 or more; all axes but the last count as the matrix's rows (inputs).
      gradient: same shape.
      velocity: v, same shape.
      learning_rate: scalar.
      momentum: mu, scalar.
      iterations: Newton-Schulz iterations.
      nesterov: whether the step looks ahead (else it is orth(v)).
      rms: scale = rms sqrt(max(rows, columns)), the root mean square of the step's elements being
        about rms for any shape; None: scale = sqrt(max(1, columns / rows)), Jordan's.
      keep: see `Keep`.

    Returns:
      The new parameter and velocity.

    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; rms: Liu et al. 2025,
      arXiv:2502.16982.
    """
    velocity = keep(momentum * velocity + gradient, velocity)
    step = gradient + momentum * velocity if nesterov else velocity
    columns = parameter.shape[-1]
    matrix = orthogonalized(tf.reshape(step, [-1, columns]), iterations)
    rows = parameter.shape.num_elements() // max(columns, 1)
    scale = max(1.0, columns / rows) ** 0.5 if rms is None else rms * max(rows, columns) ** 0.5
    return parameter - learning_rate * scale * tf.reshape(matrix, parameter.shape), velocity


def orthogonalized(matrix: tf.Tensor, iterations: int) -> tf.Tensor:
    """About the nearest orthogonal matrix, `U V^T` of the singular value decomposition.

    Newton-Schulz iterations of a quintic, whose coefficients raise small singular values fast and
    leave them between about 0.7 and 1.2 instead of at 1.

    Args:
      matrix: [rows, columns], float32 or float64.
      iterations: 5 in the source.

    Returns:
      A matrix of the same shape.

    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else tf.transpose(matrix)
    x = x / (
        tf.sqrt(tf.reduce_sum(tf.square(x))) + 1e-7
    )  # the Frobenius norm bounds the largest singular value
    for _ in range(iterations):
        gram = tf.matmul(x, x, transpose_b=True)
        polynomial = -4.7750 * gram + 2.0315 * tf.matmul(gram, gram)
        x = 3.4445 * x + tf.matmul(polynomial, x)
    return x if wide else tf.transpose(x)


def _adam_scalars(
    learning_rate: tf.Tensor,
    count: tf.Tensor,
    dtype: tf.DType,
    *,
    ratio: float,
    beta1: float,
    beta2: float,
) -> dict[str, tf.Tensor]:
    """`Rule.derived` of the variables that Adam trains: its learning rate is `ratio` times ours."""
    return adam_step_size(learning_rate * ratio, count, dtype, beta1=beta1, beta2=beta2)


class Muon(Optimizer):
    """Muon: momentum made orthogonal for matrices, Adam for all other variables.

    A variable of rank 2 or more is a matrix, all its axes but the last being the rows; convolution
    kernels are included. Embeddings and the output layer should be excluded. A sparse gradient of a
    matrix is refused, since the step depends on all its rows; of an excluded one it means what
    `sparse` says, lazy by default.

    Args:
      learning_rate: a number or a schedule, for the matrices.
      momentum: mu, in [0, 1).
      nesterov: whether to look ahead.
      iterations: Newton-Schulz iterations.
      rms: scales the step to this root mean square per element, which takes AdamW's learning rate
        and weight decay (0.2); None: Jordan's scale, learning rate about 0.02.
      exclude: patterns of matrices that Adam should train.
      adam_ratio: Adam's learning rate divided by the matrices'. Weight decay takes the matrices'
        learning rate everywhere, as in Keras.
      adam_beta1: decay of Adam's first moment.
      adam_beta2: decay of Adam's second moment.
      adam_epsilon: added to the root of Adam's second moment.
      **options: see `Optimizer`.

    Raises:
      ValueError: if a number is out of range.

    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; Liu et al. 2025,
      arXiv:2502.16982; `keras.optimizers.Muon`.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.02,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        iterations: int = 5,
        rms: float | None = None,
        exclude: Sequence[str] = (),
        adam_ratio: float = 0.1,
        adam_beta1: float = 0.9,
        adam_beta2: float = 0.999,
        adam_epsilon: float = 1e-7,
        **options: Any,
    ) -> None:
        function = functools.partial(
            muon_rule,
            iterations=int(checks.number("Muon", "iterations", iterations, low=1)),
            nesterov=bool(nesterov),
            rms=None if rms is None else checks.number("Muon", "rms", rms),
        )
        rule = Rule(
            function,
            slots={"momentum": 0.0},
            constants={"momentum": checks.number("Muon", "momentum", momentum, below=1.0)},
            no_rows="a matrix's step depends on all its rows; add a pattern that matches it to "
            "exclude",
        )
        super().__init__(learning_rate, rule, **options)
        self._exclude = [checks.pattern("Muon", "exclude", text) for text in exclude]
        ratio = checks.number("Muon", "adam_ratio", adam_ratio)
        betas = {
            "beta1": checks.number("Muon", "adam_beta1", adam_beta1, below=1.0),
            "beta2": checks.number("Muon", "adam_beta2", adam_beta2, below=1.0),
        }
        self._adam = Rule(
            adam_rule,
            slots={"m": 0.0, "v": 0.0},
            constants={**betas, "epsilon": checks.number("Muon", "adam_epsilon", adam_epsilon)},
            derived=functools.partial(_adam_scalars, ratio=ratio, **betas),
        )

    def rule_for(self, name: str, shape: tf.TensorShape, weight_decay: float) -> Rule:
        """A matrix's own, Adam's for another variable and for an excluded matrix."""
        del weight_decay
        excluded = any(pattern.search(name) for pattern in self._exclude)
        return self._adam if shape.rank < 2 or excluded else self._rule
