"""The record of every step of a call, as one table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from loop.user_code import found

CAPACITY = 64
"""The most scalars a step may report: the table's width while a call runs, trimmed on return."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """What the steps of one call reported.

    Attributes:
      first_step: the global step of row 0, counted before it was advanced.
      columns: the names, in the step's order.
      table: float64 [steps, columns]; exact for float32, bool, and integers below 2**53.
    """

    first_step: int
    columns: tuple[str, ...]
    table: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, name: str) -> npt.NDArray[np.float64]:
        """One column, float64 [steps].

        Raises:
          KeyError: if the step reported no such scalar.
        """
        if name not in self.columns:
            raise KeyError(f"rows: no column {name!r}; there are {', '.join(self.columns)}")
        return self.table[:, self.columns.index(name)]

    def __iter__(self) -> Iterator[dict[str, float]]:
        """Each step as {"step": number of steps finished with it, name: value}."""
        for index, values in enumerate(self.table.tolist()):
            yield {
                "step": self.first_step + index + 1,
                **dict(zip(self.columns, values, strict=True)),
            }


def packed(row: Mapping[str, Any]) -> tuple[tuple[str, ...], tf.Tensor]:
    """A step's scalars as column names and a float64 [CAPACITY] vector, zeros behind them.

    Raises:
      ValueError: if a value is not a scalar, is named "step", or there are more than CAPACITY.
    """
    if "step" in row:
        raise ValueError("rows: 'step' is the row's own number; name the step's scalar otherwise")
    if len(row) > CAPACITY:
        raise ValueError(f"rows: a step may report at most {CAPACITY} scalars, got {len(row)}")
    values = []
    for name, value in row.items():
        try:
            tensor = tf.convert_to_tensor(value)
        except (TypeError, ValueError):
            tensor = None
        if tensor is None or tensor.dtype == tf.string:
            raise ValueError(
                f"rows: a step reports scalars, but {name!r} is {found(value)}; return a number"
            )
        if tensor.shape.rank != 0:
            raise ValueError(
                f"rows: a step reports scalars, but {name!r} has shape {tensor.shape}; reduce it"
            )
        values.append(tf.cast(tensor, tf.float64))
    if not values:
        return (), tf.zeros([CAPACITY], tf.float64)
    return tuple(row), tf.pad(tf.stack(values), [[0, CAPACITY - len(values)]])
