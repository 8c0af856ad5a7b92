"""The area under the ROC curve, from a histogram of the scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from loop.metrics.metric import Additive, State, Values, vector_of


class AUC(Additive):
    """The chance that a positive example scores higher than a negative one; ties count half.

    Scores fall into equal bins of [low, high]. Examples in different bins are compared exactly;
    those that share a bin count as tied, so the error is at most half the share of such pairs of
    different score, which `resolution` gives. Exact for scores that are as many values as bins.

    Source: Mann and Whitney, Ann. Math. Statist. 18(1), 1947; J. Hanley, B. McNeil, Radiology
    143(1), 1982.

    Args:
      label: name of the labels [B]: bool, or numbers of which above 0 is positive.
      score: name of the scores [B]; logits need `low` and `high` of their own.
      low: scores below it fall into the first bin.
      high: scores above it fall into the last bin.
      bins: at least 2.

    Raises:
      ValueError: unless low < high and bins >= 2; when computed, if all examples have one label or
        a score was not a number.
    """

    def __init__(
        self,
        *,
        label: str = "label",
        score: str = "score",
        low: float = 0.0,
        high: float = 1.0,
        bins: int = 2**16,
    ) -> None:
        if not low < high:
            raise ValueError(f"AUC: low must be below high, got {low} and {high}")
        if bins < 2:
            raise ValueError(f"AUC: bins must be at least 2, got {bins}")
        self.label = label
        self.score = score
        self.low = low
        self.high = high
        self.bins = bins

    def empty(self) -> State:
        """Int64 [2, bins]: negative and positive examples; and scores that are not numbers."""
        return {
            "counts": tf.zeros([2, self.bins], tf.int64),
            "not_a_number": tf.zeros([], tf.int64),
        }

    def of(self, values: Values, mask: tf.Tensor) -> State:
        """The batch's histogram."""
        score = tf.cast(vector_of(values, self.score, "AUC", mask), tf.float64)
        label = vector_of(values, self.label, "AUC", mask)
        positive = label if label.dtype == tf.bool else label > 0
        is_nan = tf.math.is_nan(score)
        place = (score - self.low) * (self.bins / (self.high - self.low))
        # Clipped before the cast: the cast of a float64 that does not fit into int64 is undefined.
        place = tf.clip_by_value(tf.where(is_nan, tf.zeros_like(place), place), 0, self.bins - 1)
        place = tf.cast(place, tf.int64) + tf.where(positive, tf.cast(self.bins, tf.int64), 0)
        place = tf.where(mask & ~is_nan, place, 2 * self.bins)
        counts = tf.math.unsorted_segment_sum(
            tf.ones_like(place), place, num_segments=2 * self.bins + 1
        )
        return {
            "counts": tf.reshape(counts[:-1], [2, self.bins]),
            "not_a_number": tf.math.count_nonzero(is_nan & mask),
        }

    def compute(self, state: Mapping[str, npt.NDArray[Any]]) -> float:
        """The area, in [0, 1]."""
        negative, positive = self._counts(state)
        below = np.cumsum(negative) - negative
        wins = (positive * (below + 0.5 * negative)).sum()
        return float(wins / (negative.sum() * positive.sum()))

    def resolution(self, state: Mapping[str, npt.NDArray[Any]]) -> float:
        """The most that `compute` can be wrong by, up or down."""
        negative, positive = self._counts(state)
        return float(0.5 * (negative * positive).sum() / (negative.sum() * positive.sum()))

    def _counts(
        self, state: Mapping[str, npt.NDArray[Any]]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Negative and positive examples of each bin; float64, since their products are large."""
        if state["not_a_number"]:
            raise ValueError(
                f"AUC: expected scores that are numbers, found {int(state['not_a_number'])} NaN"
            )
        negative, positive = np.asarray(state["counts"], np.float64)
        if not negative.any() or not positive.any():
            raise ValueError(
                f"AUC: expected examples of both labels, found {negative.sum():.0f} negative and "
                f"{positive.sum():.0f} positive"
            )
        return negative, positive
