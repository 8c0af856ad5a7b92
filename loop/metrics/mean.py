"""The mean of a value over all examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import tensorflow as tf

from loop.metrics.metric import Additive, State, Values, ratio, vector_of


class Mean(Additive):
    """The mean of a per-example value, summed in float64.

    Args:
      value: name of the value, [B] of any number or bool.
      weight: name of per-example weights [B]; None for equal ones.
    """

    def __init__(self, value: str, *, weight: str | None = None) -> None:
        self.value = value
        self.weight = weight

    def empty(self) -> State:
        """Float64 scalars total and count."""
        return {"total": tf.zeros([], tf.float64), "count": tf.zeros([], tf.float64)}

    def of(self, values: Values, mask: tf.Tensor) -> State:
        """The sum of weight * value, and of the weights."""
        value = tf.cast(vector_of(values, self.value, "Mean", mask), tf.float64)
        weight = tf.ones_like(value)
        if self.weight is not None:
            weight = tf.cast(vector_of(values, self.weight, "Mean", mask), tf.float64)
        zero = tf.zeros([], tf.float64)
        return {
            "total": tf.reduce_sum(tf.where(mask, value * weight, zero)),
            "count": tf.reduce_sum(tf.where(mask, weight, zero)),
        }

    def compute(self, state: Mapping[str, npt.NDArray[Any]]) -> float:
        """The weighted mean."""
        return ratio(state["total"], state["count"], f"Mean({self.value!r})")
