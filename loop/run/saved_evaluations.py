"""A run's evaluations as state: what decides training is in the checkpoint, its file is a log."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from loop.actions.monitor import read_evaluations
from loop.checkpoint import CheckpointError
from loop.writers.lines import JsonLines, put_aside

_log = logging.getLogger(__name__)

Results = list[tuple[int, dict[str, Any]]]


def encoded(evaluations: Sequence[tuple[int, dict[str, Any]]]) -> list[list[Any]]:
    """The numbers as JSON values, to the bit; metrics that are arrays decide nothing."""
    return [
        [step, {n: _encoded(v) for n, v in results.items() if isinstance(v, (int, float))}]
        for step, results in evaluations
    ]


def _encoded(value: float) -> float | str:
    return value if math.isfinite(value) else str(float(value))  # JSON has no NaN.


def decoded(saved: Any) -> Results:
    """What `encoded` was given, without the arrays."""
    return [
        (int(step), {n: float(v) if isinstance(v, str) else v for n, v in results.items()})
        for step, results in saved
    ]


def taken_up(lines: JsonLines, saved: Any | None, step: int) -> Results:
    """The evaluations of a run that was restored; its file is made to agree with them.

    Args:
      lines: the run's file, open.
      saved: what the checkpoint holds; None in one that holds none, whose file is believed.
      step: the restored step.

    Raises:
      CheckpointError: if the file is believed, and a line is not one that the run writes.
    """
    if saved is None:
        return read_evaluations(lines.path)
    expected = decoded(saved)
    try:
        on_file = read_evaluations(lines.path)
    except CheckpointError:
        on_file = []
    found, wanted = _numbers(on_file), _numbers(expected)
    # One that was made at that step after the checkpoint is in the file only.
    later = found[len(wanted) :]
    if found[: len(wanted)] == wanted and all(at == step for at, _ in later):
        return on_file  # With the metrics that are arrays.
    aside = put_aside(lines.path)
    _log.warning(
        "%s does not hold the evaluations of the checkpoint of step %d, which are used, and "
        "written to it again%s",
        lines.path,
        step,
        f"; what was there is now {aside.name}" if aside else "",
    )
    lines.start_again([{"step": at, **results} for at, results in expected])
    return expected


def _numbers(evaluations: Results) -> list[Any]:
    """What is on file of them: null for a number that is not finite."""
    return [
        [step, {name: None if isinstance(v, str) else v for name, v in results.items()}]
        for step, results in encoded(evaluations)
    ]
