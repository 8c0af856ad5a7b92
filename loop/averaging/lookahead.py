"""Lookahead: slow weights that follow the optimizer's every few updates, and replace them."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from loop.averaging.shadow_weights import ShadowWeights
from loop.handles import read, write


class Lookahead(ShadowWeights):
    """After every `every` updates, `slow += rate * (weight - slow)` and `weight = slow`.

    The optimizer's slots are left as they are.

    Source: Zhang et al. 2019, arXiv:1907.08610, algorithm 1.

    Args:
      every: updates between two moves of the slow weights, the paper's k, at least 1.
      rate: the paper's alpha, in (0, 1].

    Raises:
      ValueError: on a number out of range.
    """

    name = "lookahead"

    def __init__(self, every: int = 6, rate: float = 0.5) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"Lookahead: every must be at least 1, got {every}")
        if not 0.0 < rate <= 1.0:
            raise ValueError(f"Lookahead: rate must be in (0, 1], got {rate}")
        self._every = every
        self._rate = rate

    def move(
        self,
        pairs: Sequence[tuple[tf.Variable, tf.Variable]],
        count: tf.Tensor,
        finite: tf.Tensor,
    ) -> None:
        """Moves slow and fast weights where the count is a multiple of `every`."""
        due = finite & tf.equal(count % self._every, 0)
        for variable, slow in pairs:
            fast, old = read(variable), read(slow)
            new = old + tf.cast(self._rate, old.dtype) * (fast - old)
            write(slow, tf.where(due, new, old))
            write(variable, tf.where(due, new, fast))
