"""What an evaluation asks of a metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

State = dict[str, tf.Tensor]
"""Sums and counts by name; explicit, so that it travels through a compiled call."""

Values = Mapping[str, tf.Tensor]
"""What the evaluated function returns of a batch: name -> [B, ...]."""


class Metric(Protocol):
    """A number, or an array, of a whole data set, from states that add up.

    The state of two sets of examples is the sum of their states: so replicas are reduced by one
    sum, and neither the batches nor their order matter.
    """

    def empty(self) -> State:
        """The state of no examples, zeros."""

    def of(self, values: Values, mask: tf.Tensor) -> State:
        """A batch's state; traced.

        Args:
          values: what the function returned.
          mask: bool [B], False for padding, which must not count.
        """

    def merge(self, left: State, right: State) -> State:
        """The state of both sets of examples."""

    def compute(self, state: Mapping[str, npt.NDArray[Any]]) -> Any:
        """The metric, from a state on the host.

        Raises:
          ValueError: if the state has no metric, as that of no examples.
        """


class Additive:
    """The merge of all metrics here."""

    def merge(self, left: State, right: State) -> State:
        """The sum."""
        return {name: left[name] + right[name] for name in left}


def value_of(values: Values, name: str, asker: str, mask: tf.Tensor) -> tf.Tensor:
    """One of the function's values, [B, ...].

    Raises:
      KeyError: if it did not return it.
      ValueError: if it is not one an example.
    """
    if name not in values:
        raise KeyError(f"{asker}: expected a value {name!r}, found {', '.join(values) or 'none'}")
    value = tf.convert_to_tensor(values[name])
    if value.shape[:1] != mask.shape:
        raise ValueError(
            f"{asker}: {name!r} has shape {value.shape}; expected one value an example, "
            f"{mask.shape}: a mean over a padded batch would count the padding"
        )
    return value


def vector_of(values: Values, name: str, asker: str, mask: tf.Tensor) -> tf.Tensor:
    """One of the function's values, a scalar an example, [B].

    Raises:
      KeyError, ValueError: as `value_of`, and on another rank.
    """
    value = value_of(values, name, asker, mask)
    if value.shape.rank != 1:
        raise ValueError(
            f"{asker}: {name!r} has shape {value.shape}; expected one value an example, "
            f"{mask.shape}: reduce the rest"
        )
    return value


def ratio(total: Any, count: Any, what: str) -> float:
    """The quotient on the host.

    Raises:
      ValueError: on a count of zero.
    """
    if count == 0:
        raise ValueError(f"{what}: expected at least one example, found none")
    return float(np.float64(total) / np.float64(count))
