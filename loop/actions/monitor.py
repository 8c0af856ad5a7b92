"""A metric of the evaluations that decisions of the outer loop follow."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from loop.checkpoint.files import CheckpointError

Evaluations = Sequence[tuple[int, dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Monitor:
    """Which numbers count, and which of two is better.

    A decision is a function of the evaluations so far and holds no state of its own: a resumed run,
    which reads them back from its directory, decides as one that was not interrupted.

    Attributes:
      metric: a name in the evaluations' results.
      mode: whether the "min" or the "max" is best.
      every: evaluations at multiples of this many steps count: the trainer's `evaluate_every`. One
        that was made because a run was interrupted must not change what the run does.
      min_delta: how much better than the best a number must be, at least 0.

    Raises:
      ValueError: on another mode, or a number out of range.
    """

    metric: str
    mode: Literal["min", "max"] = "min"
    every: int = 1
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ValueError(f"Monitor: mode must be 'min' or 'max', got {self.mode!r}")
        if self.every < 1:
            raise ValueError(f"Monitor: every must be at least 1, got {self.every}")
        if not (self.min_delta >= 0.0 and math.isfinite(self.min_delta)):
            raise ValueError(f"Monitor: min_delta must be at least 0, got {self.min_delta}")

    @property
    def worst(self) -> float:
        """What every number is better than."""
        return math.inf if self.mode == "min" else -math.inf

    def is_better(self, value: float, best: float) -> bool:
        """Whether `value` is better than `best` by more than `min_delta`; NaN never is."""
        if self.mode == "min":
            return value < best - self.min_delta
        return value > best + self.min_delta

    def history(self, evaluations: Evaluations) -> list[tuple[int, float]]:
        """The (step, value)s that count, by step; of two evaluations of a step the later one.

        Raises:
          ValueError: if an evaluation has no such metric, or it is no number.
        """
        values: dict[int, float] = {}
        for step, results in evaluations:
            if step % self.every:
                continue
            if not isinstance(results.get(self.metric), (int, float)):
                raise ValueError(
                    f"Monitor: the evaluation of step {step} has no number {self.metric!r}, it has "
                    f"{', '.join(results)}"
                )
            values[step] = results[self.metric]
        return sorted(values.items())


def read_evaluations(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The evaluations in a run's `evaluations.jsonl`; a null is NaN. None where there is no file.

    Raises:
      CheckpointError: if a line is not one that the run writes.
    """
    if not path.exists():
        return []
    return list(_parsed(path.read_text(encoding="utf-8").splitlines(), path))


def _parsed(lines: Iterable[str], path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            step = int(record.pop("step"))
            yield step, {k: _numbers(v) for k, v in record.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{path}, line {number}: expected an evaluation as the run writes it, found "
                f"{line[:80]!r}; remove the line"
            ) from error


def _numbers(value: Any) -> Any:
    """A metric's value: a number, NaN for null, or lists or dicts of these."""
    if value is None:
        return math.nan
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    if isinstance(value, dict):
        return {name: _numbers(one) for name, one in value.items()}
    if not isinstance(value, (int, float)):
        raise TypeError
    return value
