"""TensorBoard's curves of a run: the numbers of every step, and of every evaluation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import loop
from loop.rows import Rows
from loop.writers.tensorboard import TensorBoard

FOLDER = "tensorboard"


class Curves:
    """Writes "train/..." at every step, "test/..." of a trainer's evaluations, each once.

    A writer of the trainer's. What TensorBoard reads follows from the step that a resumed run goes
    on from, so the file is made at the first numbers.

    Args:
      directory: of the run.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = directory / FOLDER
        self._board: TensorBoard | None = None
        self._evaluated = -1

    def __call__(self, rows: Rows) -> None:
        """Writes the numbers of every step."""
        columns = tuple(f"train/{name}" for name in rows.columns)
        self._opened(rows.first_step)(dataclasses.replace(rows, columns=columns))

    def evaluated(self, trainer: loop.Trainer) -> None:
        """Writes the last evaluation's numbers, an action; a matrix is no curve."""
        step, results = trainer.evaluations[-1]
        if step <= self._evaluated:
            return
        numbers = {f"test/{n}": v for n, v in results.items() if isinstance(v, (int, float))}
        self._opened(step).scalars(numbers, step)
        self._evaluated = step

    def close(self) -> None:
        """Closes the file."""
        if self._board is not None:
            self._board.close()

    def _opened(self, step: int) -> TensorBoard:
        if self._board is None:
            self._board = TensorBoard(self._folder, step=step)
        return self._board
