"""Writers: callables that are given every call's rows, one row a step."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

from loop.rows import Rows

Writer = Callable[[Rows], None]
"""Any callable that takes `Rows`; iterate over it for one dict a step.

A writer with a method `evaluated(step, results)` is given the results of every evaluation too: the
finished steps, and name -> number, or lists of numbers of a metric that is an array.
"""


class JsonLines:
    """One JSON object a step: {"step": ..., "loss": ..., ...}; non-finite numbers as null.

    Args:
      path: the file, appended to. Lines of steps after `step` are cut off: a run that was killed
        after its last checkpoint wrote them, and will write them again.
      step: finished steps of the run so far; None for those before the first line that is written,
        until which the file is left alone.

    Raises:
      OSError: as the file system does.
    """

    def __init__(self, path: str | os.PathLike[str], *, step: int | None = None) -> None:
        self.path = Path(path)
        self._file: TextIO | None = None
        if step is not None:
            self._file = self._opened(step)

    def _opened(self, step: int) -> TextIO:
        _cut(self.path, lambda line: _step_of_json(line) <= step)
        return self.path.open("a", encoding="utf-8")

    def __call__(self, rows: Rows) -> None:
        """Appends and flushes the rows."""
        self.write(rows)

    def write(self, records: Iterable[dict[str, Any]]) -> None:
        """Appends and flushes any records with a "step"."""
        records = list(records)
        lines = [json.dumps({k: _finite(v) for k, v in record.items()}) for record in records]
        if not lines:
            return
        if self._file is None:
            self._file = self._opened(int(records[0]["step"]) - 1)
        try:
            self._file.write("".join(f"{line}\n" for line in lines))
            self._file.flush()
        except OSError as error:  # The system's own does not name the file.
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()


class Csv:
    """One line a step under a header, in the order of the step's columns.

    Args:
      path: the file; lines of steps after `step` are cut off, as by `JsonLines`.
      step: see `JsonLines`.

    Raises:
      OSError: as the file system does.
      ValueError: when called with other columns than the file's header has.
    """

    def __init__(self, path: str | os.PathLike[str], *, step: int | None = None) -> None:
        self.path = Path(path)
        self._header: list[str] | None = None
        self._file: TextIO | None = None
        if step is not None:
            self._file = self._opened(step)

    def _opened(self, step: int) -> TextIO:
        _cut(self.path, lambda line: _step_of_csv(line) <= step)
        if self.path.exists() and self.path.stat().st_size:
            with self.path.open(encoding="utf-8", newline="") as file:
                self._header = next(csv.reader(file))
        return self.path.open("a", encoding="utf-8", newline="")

    def __call__(self, rows: Rows) -> None:
        """Appends and flushes the rows."""
        if self._file is None:
            self._file = self._opened(rows.first_step)
        header = ["step", *rows.columns]
        lines = csv.writer(self._file)
        if self._header is None:
            self._header = header
            lines.writerow(header)
        if header != self._header:
            raise ValueError(
                f"{self.path}: the header has {self._header}, the step reports {header}"
            )
        lines.writerows([row[name] for name in header] for row in rows)
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()


def _finite(value: Any) -> Any:
    """JSON has no NaN: a reader of strict JSON would fail on the whole line."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _step_of_json(line: str) -> float:
    if not line.endswith("\n"):
        return math.inf  # A kill cut the line, perhaps just before its end.
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf


def _step_of_csv(line: str) -> float:
    first = line.split(",", 1)[0]
    if first == "step":
        return 0.0
    return float(first) if first.isdigit() and line.endswith("\n") else math.inf


def _cut(path: Path, keep: Callable[[str], bool]) -> None:
    """Rewrites a file without the lines from the first unwanted one on."""
    if not path.exists():
        return
    end = 0
    with path.open("r+b") as file:
        for line in file:
            if not keep(line.decode("utf-8", errors="replace")):
                break
            end += len(line)
        file.truncate(end)
