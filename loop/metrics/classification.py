"""Metrics of a choice among classes; all are counts, exact up to 2**53 examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from loop.metrics.metric import Additive, State, Values, ratio, value_of, vector_of


class TopK(Additive):
    """The share of examples whose label is among the k classes of the highest scores.

    A class that ties with the label counts as higher where its number is lower: the order of
    `tf.math.top_k` and `argmax`. An example with a score that is not a number is wrong.

    Args:
      k: at least 1.
      label: name of the labels, integers [B] in [0, classes).
      scores: name of the scores, logits or probabilities [B, classes].

    Raises:
      ValueError: if k is below 1; when traced, if there are fewer classes than k; when computed, if
        a label was outside.
    """

    def __init__(self, k: int, *, label: str = "label", scores: str = "logits") -> None:
        if k < 1:
            raise ValueError(f"TopK: k must be at least 1, got {k}")
        self.k = k
        self.label = label
        self.scores = scores

    def empty(self) -> State:
        """Int64 scalars correct and count, and how many labels were outside."""
        return {name: tf.zeros([], tf.int64) for name in ("correct", "count", "outside")}

    def of(self, values: Values, mask: tf.Tensor) -> State:
        """How many are right, of how many."""
        label, scores = _labels_and_scores(self, values, mask)
        classes = scores.shape[1]
        if self.k > classes:
            raise ValueError(f"TopK: k={self.k} expected to be at most the {classes} classes")
        number = tf.range(classes, dtype=tf.int64)
        is_label = number == label[:, None]
        own = tf.reduce_sum(tf.where(is_label, scores, tf.zeros_like(scores)), 1, keepdims=True)
        # Counting what is above the label needs no sort, which is slow under XLA.
        above = (scores > own) | ((scores == own) & (number < label[:, None]))
        rank = tf.math.count_nonzero(above, 1)
        inside = tf.reduce_any(is_label, 1)
        known = inside & ~tf.reduce_any(tf.math.is_nan(scores), 1)
        return {
            "correct": tf.math.count_nonzero((rank < self.k) & known & mask),
            "count": tf.math.count_nonzero(mask),
            "outside": tf.math.count_nonzero(~inside & mask),
        }

    def compute(self, state: Mapping[str, npt.NDArray[Any]]) -> float:
        """The share, in [0, 1]."""
        share = ratio(state["correct"], state["count"], type(self).__name__)
        if state["outside"]:
            raise ValueError(
                f"{type(self).__name__}: expected labels of a class that has a score, found "
                f"{int(state['outside'])} outside; correct the labels, or give the model as many "
                "classes as the data has"
            )
        return share


class Accuracy(TopK):
    """The share of examples whose label has the highest score.

    Args:
      label: name of the labels, integers [B].
      scores: name of the scores, logits or probabilities [B, classes].
    """

    def __init__(self, *, label: str = "label", scores: str = "logits") -> None:
        super().__init__(1, label=label, scores=scores)


class ConfusionMatrix(Additive):
    """How often a label got each class: rows are labels, columns the classes of highest score.

    Args:
      classes: number of classes.
      label: name of the labels, integers [B] in [0, classes).
      scores: name of the scores, logits or probabilities [B, classes].

    Raises:
      ValueError: if classes is below 1; when traced, if the scores have another number of classes;
        when computed, if a label was outside.
    """

    def __init__(self, classes: int, *, label: str = "label", scores: str = "logits") -> None:
        if classes < 1:
            raise ValueError(f"ConfusionMatrix: classes must be at least 1, got {classes}")
        self.classes = classes
        self.label = label
        self.scores = scores

    def empty(self) -> State:
        """Counts int64 [classes, classes], and how many labels were outside."""
        return {
            "counts": tf.zeros([self.classes, self.classes], tf.int64),
            "outside": tf.zeros([], tf.int64),
        }

    def of(self, values: Values, mask: tf.Tensor) -> State:
        """The batch's counts."""
        label, scores = _labels_and_scores(self, values, mask)
        if scores.shape[1] != self.classes:
            raise ValueError(
                f"ConfusionMatrix: {self.scores!r} has shape {scores.shape}, expected "
                f"{self.classes} classes"
            )
        inside = (label >= 0) & (label < self.classes)
        cell = label * self.classes + tf.argmax(scores, 1, tf.int64)
        # XLA clamps what is out of range without an error, so such labels are left out explicitly.
        cell = tf.where(inside & mask, cell, self.classes**2)
        counts = tf.math.unsorted_segment_sum(
            tf.ones_like(cell), cell, num_segments=self.classes**2 + 1
        )
        return {
            "counts": tf.reshape(counts[:-1], [self.classes, self.classes]),
            "outside": tf.math.count_nonzero(~inside & mask),
        }

    def compute(self, state: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
        """The matrix, int64 [classes, classes]."""
        if state["outside"]:
            raise ValueError(
                f"ConfusionMatrix: expected labels in [0, {self.classes}), found "
                f"{int(state['outside'])} outside; give it as many classes as the data has"
            )
        counts: npt.NDArray[np.int64] = np.asarray(state["counts"])
        return counts


def _labels_and_scores(
    metric: TopK | ConfusionMatrix, values: Values, mask: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    asker = type(metric).__name__
    label = vector_of(values, metric.label, asker, mask)
    if not label.dtype.is_integer:
        raise ValueError(
            f"{asker}: {metric.label!r} is {label.dtype.name}, expected integer class numbers [B]; "
            "take the argmax of one-hot labels"
        )
    scores = value_of(values, metric.scores, asker, mask)
    if scores.shape.rank != 2:
        raise ValueError(
            f"{asker}: {metric.scores!r} has shape {scores.shape}, expected [B, classes]"
        )
    return tf.cast(label, tf.int64), scores
