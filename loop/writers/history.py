"""A run's numbers as arrays, to plot or to compute with: a column a name, a row a step."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loop.rows import Rows

Columns = dict[str, npt.NDArray[Any]]


class History:
    """A writer that keeps every call's rows in memory: 8 bytes a number.

    Attributes:
      calls: the rows, in their order.
    """

    def __init__(self) -> None:
        self.calls: list[Rows] = []

    def __call__(self, rows: Rows) -> None:
        """Keeps the rows."""
        self.calls.append(rows)

    def records(self) -> list[dict[str, Any]]:
        """Each step as {"step": ..., name: value}."""
        return [row for rows in self.calls for row in rows]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records in a file of JSON lines, as `JsonLines` writes it."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def columns(records: Iterable[Mapping[str, Any]]) -> Columns:
    """Records as arrays of one length.

    Args:
      records: each with "step" and numbers, or nested lists of numbers, by name.

    Returns:
      "step", int64 [N], then every name that a record has, float64 [N, ...]; NaN where a record has
      no such name, or None for a number that is not finite.
    """
    records = list(records)
    found: Columns = {"step": np.array([record["step"] for record in records], np.int64)}
    for name in dict.fromkeys(name for record in records for name in record):
        if name != "step":
            found[name] = _column([record.get(name) for record in records])
    return found


def _column(values: list[Any]) -> npt.NDArray[Any]:
    arrays = [np.asarray(np.nan if v is None else v, np.float64) for v in values]
    shape = max((array.shape for array in arrays), key=len)
    return np.stack([array if array.shape == shape else np.full(shape, np.nan) for array in arrays])


def frame(found: Columns) -> Any:
    """The columns as a `pandas.DataFrame` with the steps as index.

    Raises:
      ModuleNotFoundError: where pandas is not installed.
    """
    try:
        pandas = importlib.import_module("pandas")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "history: as_frame=True needs pandas, which is not installed; install it, or take the "
            "arrays without as_frame"
        ) from error
    rest = {name: column if column.ndim == 1 else list(column) for name, column in found.items()}
    return pandas.DataFrame(rest).set_index("step")
