"""Runs cases in processes of their own and compares what they wrote."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tests.replicas.cases import Case

ROOT = pathlib.Path(__file__).parents[2]
_SECONDS = 1200


@dataclasses.dataclass(frozen=True)
class Result:
    """What one case on one number of replicas wrote.

    Attributes:
      arrays: rows, states, bits by name.
      seen: what else was seen of the run.
    """

    arrays: Mapping[str, Any]
    seen: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, Any]:
        """The arrays of one kind, such as "state"."""
        start = f"{prefix}/"
        return {n.removeprefix(start): v for n, v in self.arrays.items() if n.startswith(start)}


def read(out: pathlib.Path, name: str, replicas: int | str) -> Result:
    """The result of a case that was run."""
    with np.load(out / f"{name}-{replicas}.npz") as arrays:
        return Result(dict(arrays), json.loads((out / f"{name}-{replicas}.json").read_text()))


def start(out: pathlib.Path, cases: Sequence[Case], replicas: int) -> subprocess.Popen[str]:
    """Starts the process that runs cases; on two worker processes with `replicas` 0."""
    argument = json.dumps(
        {"replicas": replicas, "out": str(out), "cases": [dataclasses.asdict(c) for c in cases]}
    )
    command = [sys.executable, "-m", "tests.replicas.run_case", argument]
    if replicas == 0:
        command = [sys.executable, "-m", "experiments.launch", "--workers=2", "--", *command]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Waits for a process that must end well; its output."""
    try:
        output, _ = process.communicate(timeout=_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, output[-4000:]
    return output


def run(out: pathlib.Path, cases: Iterable[tuple[Case, int | None]]) -> None:
    """Runs each case on one replica, then on its number of several (0: two workers), if any."""
    pairs = list(cases)
    out.mkdir(parents=True, exist_ok=True)
    # What a cut run on several replicas leaves, one replica goes on with.
    cut = [case for case, _ in pairs if case.cut]
    finish(start(out, [case for case, _ in pairs if not case.cut], 1))
    several = [
        start(out, [case for case, count in pairs if count == number], number)
        for number in sorted({count for _, count in pairs if count is not None})
    ]
    for process in several:
        finish(process)
    if cut:
        finish(start(out, cut, 1))


def relative_difference(one: Any, other: Any) -> float:
    """The norm of the difference over the first's norm; of its largest element below 1e-30."""
    difference = float(np.linalg.norm(np.ravel(one.astype(np.float64) - other)))
    norm = float(np.linalg.norm(np.ravel(one.astype(np.float64))))
    return difference / norm if norm > 1e-30 else difference


def largest_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[float, str]:
    """The largest relative difference of two sets of arrays of the same names, and whose it is."""
    assert list(one) == list(other), (list(one), list(other))
    return max((relative_difference(one[name], other[name]), name) for name in one)


def step_differences(one: Result, other: Result, names: Iterable[str]) -> list[float]:
    """For each step, the largest relative difference of the named state after it."""
    states, others = one.part("states"), other.part("states")
    steps = len(next(iter(states.values())))
    return [
        max(relative_difference(states[name][step], others[name][step]) for name in names)
        for step in range(1, steps)
    ]
