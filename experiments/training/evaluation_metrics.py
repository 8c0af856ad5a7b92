"""From `--metrics` to what an evaluation computes besides loss and accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from experiments.data.datasets import Dataset
from experiments.entry.errors import InputError
from experiments.flags import Settings
from experiments.flags.metrics import Named, parsed
from loop import metrics


class EvaluationMetrics:
    """The metrics of `--metrics`, exact over all test examples, and the values they are made of.

    Args:
      settings: of the run.
      data: whose classes they are of.

    Attributes:
      of: name -> metric, loss and accuracy first.

    Raises:
      InputError: on a metric that the data set's classes do not have.
    """

    def __init__(self, settings: Settings, data: Dataset) -> None:
        self._named = [] if settings.metrics is None else parsed(settings.metrics)
        self.of: dict[str, metrics.Metric] = {
            "loss": metrics.Mean("loss"),
            "accuracy": metrics.Mean("accuracy"),
        }
        for named in self._named:
            _check(named, data)
            self.of[named[0]] = _metric(named, data)

    def values(self, label: tf.Tensor, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """What the metrics are computed from, one an example.

        Args:
          label: int32 [B].
          logits: [B, classes].
        """
        values = {"label": label, "logits": logits} if self._named else {}
        probabilities = tf.nn.softmax(logits)
        for name, kind, number in self._named:
            if kind == "auc":
                values[f"{name}/label"] = tf.equal(label, number)
                values[f"{name}/score"] = probabilities[:, number]
        return values


class _AUC(metrics.AUC):
    """NaN where a score is: a run that diverges has such a loss too, and tells it elsewhere."""

    def compute(self, state: Mapping[str, npt.NDArray[Any]]) -> float:
        """The area, in [0, 1], or NaN."""
        return math.nan if state["not_a_number"] else super().compute(state)


def _metric(named: Named, data: Dataset) -> metrics.Metric:
    name, kind, number = named
    if kind == "top":
        return metrics.TopK(number)
    if kind == "confusion":
        return metrics.ConfusionMatrix(data.classes)
    return _AUC(label=f"{name}/label", score=f"{name}/score")


def _check(named: Named, data: Dataset) -> None:
    name, kind, number = named
    if kind == "top" and number > data.classes:
        _refuse(name, f"K from 1 to the {data.classes} classes of {data.name}", str(number))
    if kind != "auc":
        return
    if number >= data.classes:
        _refuse(name, f"a class from 0 to {data.classes - 1}", str(number))
    share = int(np.count_nonzero(data.test_labels == number))
    if not 0 < share < len(data.test_labels):
        _refuse(name, "test examples of this class and of others", f"{share} of this one")


def _refuse(name: str, expected: str, found: str) -> NoReturn:
    raise InputError(f"--metrics={name}", expected=expected, found=found, mend="correct it")
