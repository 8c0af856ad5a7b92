"""Muon, with AdamW for what is no hidden matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from kernels import layerwise_updates, updates
from kernels.updates import Keep
from loop.optimizers import checks
from loop.optimizers.base import LearningRate, Optimizer, Sparse
from loop.optimizers.trained import Scalars, Slots, Trained


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
        super().__init__(learning_rate, **options)
        self._momentum = checks.number("Muon", "momentum", momentum, below=1.0)
        self._nesterov = bool(nesterov)
        self._iterations = int(checks.number("Muon", "iterations", iterations, low=1))
        self._rms = None if rms is None else checks.number("Muon", "rms", rms)
        self._exclude = [checks.pattern("Muon", "exclude", text) for text in exclude]
        self._adam_ratio = checks.number("Muon", "adam_ratio", adam_ratio)
        self._beta1 = checks.number("Muon", "adam_beta1", adam_beta1, below=1.0)
        self._beta2 = checks.number("Muon", "adam_beta2", adam_beta2, below=1.0)
        self._epsilon = checks.number("Muon", "adam_epsilon", adam_epsilon)

    def slots_for(self, name: str, shape: tf.TensorShape) -> Mapping[str, float]:
        """A matrix's velocity; the two moments of another variable."""
        excluded = any(pattern.search(name) for pattern in self._exclude)
        return {"m": 0.0, "v": 0.0} if shape.rank < 2 or excluded else {"momentum": 0.0}

    def sparse_for(self, trained: Trained) -> Sparse:
        """The `sparse` option; a matrix has no rule for a few of its rows."""
        if "momentum" in trained.slots:
            raise ValueError(
                f"Muon: the gradient of {trained.name!r} is sparse, but a matrix's step depends on "
                f"all its rows; add a pattern such as {trained.name!r} to exclude"
            )
        return self.sparse

    def scalars(self, learning_rate: tf.Tensor, count: tf.Tensor, dtype: tf.DType) -> Scalars:
        """What both rules need."""
        beta1, beta2 = updates.rounded(self._beta1, dtype), updates.rounded(self._beta2, dtype)
        rate = learning_rate * self._adam_ratio
        step_size = updates.adam_step_size(rate, count, beta1=beta1, beta2=beta2)
        constants = {
            "momentum": self._momentum,
            "beta1": self._beta1,
            "beta2": self._beta2,
            "epsilon": self._epsilon,
        }
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
        """See `kernels.layerwise_updates.muon` and `kernels.updates.adam`."""
        del trained
        if "momentum" in slots:
            new, velocity = layerwise_updates.muon(
                parameter,
                gradient,
                slots["momentum"],
                learning_rate=scalars["learning_rate"],
                momentum=scalars["momentum"],
                iterations=self._iterations,
                nesterov=self._nesterov,
                rms=self._rms,
                keep=keep,
            )
            return new, {"momentum": velocity}
        new, first, second = updates.adam(
            parameter,
            gradient,
            slots["m"],
            slots["v"],
            **{name: scalars[name] for name in ("step_size", "beta1", "beta2", "epsilon")},
            keep=keep,
        )
        return new, {"m": first, "v": second}
