"""TensorBoard's curves of a run: the numbers of every step, and of every evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loop.rows import Rows
from loop.writers.tensorboard import TensorBoard

FOLDER = "tensorboard"


class Curves:
    """A trainer's writer: "train/..." at every step, "test/..." of every evaluation.

    Args:
      directory: of the run.
    """

    def __init__(self, directory: Path) -> None:
        self._board = TensorBoard(directory / FOLDER)

    def __call__(self, rows: Rows) -> None:
        """Writes the numbers of every step."""
        columns = tuple(f"train/{name}" for name in rows.columns)
        self._board(dataclasses.replace(rows, columns=columns))

    def evaluated(self, step: int, results: Mapping[str, Any]) -> None:
        """Writes an evaluation's numbers."""
        self._board.evaluated(step, {f"test/{name}": value for name, value in results.items()})

    def close(self) -> None:
        """Closes the file."""
        self._board.close()
