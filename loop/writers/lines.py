"""Writers: callables that are given every call's rows, one row a step."""

from __future__ import annotations

import csv
import itertools
import json
import logging
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

from loop.rows import Rows

_log = logging.getLogger(__name__)

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
        _keep_until(self.path, step, _step_of_json)
        return self.path.open("a", encoding="utf-8")

    def start_again(self, records: Iterable[dict[str, Any]]) -> None:
        """Writes the file anew, with these records."""
        self.close()
        self._file = self.path.open("w", encoding="utf-8")
        self.write(records)

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
        _keep_until(self.path, step, _step_of_csv)
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


def _step_of_json(line: str) -> float | None:
    """The step of a line; None of one that was not written here."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _step_of_csv(line: str) -> float | None:
    first = line.split(",", 1)[0]
    if first == "step":
        return 0.0
    return float(first) if first.isascii() and first.isdigit() else None


def _keep_until(path: Path, step: int, step_of: Callable[[str], float | None]) -> None:
    """Cuts the lines of later steps off a file, and a last line that a kill has torn.

    A file in which other lines are damaged is put aside whole, and its sound lines are written
    anew: nothing that may be of use is deleted.
    """
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    steps = [step_of(line.decode("utf-8", errors="replace")) for line in lines]
    damaged = [number for number, found in enumerate(steps, 1) if found is None]
    kept = [line for line, at in zip(lines, steps, strict=True) if at is not None and at <= step]
    if not damaged:
        with path.open("r+b") as file:
            file.truncate(sum(map(len, kept)))
        return
    aside = put_aside(path)
    path.write_bytes(b"".join(kept))
    _log.warning(
        "%s: line %d is damaged%s; the file is now %s, and its %d sound lines up to step %d are "
        "written again",
        path,
        damaged[0],
        f", and {len(damaged) - 1} others" if damaged[1:] else "",
        aside.name if aside else "gone",
        len(kept),
        step,
    )


def put_aside(path: Path) -> Path | None:
    """Gives a damaged file another name, which is returned; None where nothing is in it."""
    if not path.exists() or not path.stat().st_size:
        return None
    numbers = itertools.count(1)
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in numbers)
    return path.rename(next(name for name in names if not name.exists()))
