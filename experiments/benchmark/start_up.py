"""How long people wait: from the start of a process to its first step, and to step 100."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from experiments.benchmark import machine, race, timing, workloads
from experiments.benchmark.process import ContenderError, fresh_caches

# Not keras_best, which searches, and not the floor, which trains nothing.
CONTENDERS = (
    race.OURS,
    *("keras_default", "plain_graph", "orbit_graph", "orbit_xla"),
    *("jax_step", "jax_scan", "torch_eager", "torch_compile", "bare"),
)
WORKLOADS = ("mlp", "cnn")


def _started(name: str, workload: workloads.Workload, caches: pathlib.Path) -> dict[str, float]:
    with race.start(name, workload, caches, start_up=True) as process:
        return {key: float(value) for key, value in process.answer().items()}


def _measure(
    name: str,
    workload: workloads.Workload,
    caches: pathlib.Path,
    step_100: dict[str, list[float]],
) -> Callable[[], float]:
    def measure() -> float:
        answer = _started(name, workload, caches)
        step_100.setdefault(name, []).append(answer["step_100_s"])
        return answer["first_step_s"]

    return measure


def run(names: Sequence[str], workload_names: Sequence[str], *, rounds: int) -> dict[str, Any]:
    """Starts every contender once a round; what goes into the JSON file.

    Args:
      names: of `CONTENDERS`.
      workload_names: keys of `workloads.WORKLOADS`.
      rounds: rounds to interleave.
    """
    rows: list[dict[str, Any]] = []
    missing: list[str] = []
    with fresh_caches() as caches:
        for workload in (workloads.WORKLOADS[name] for name in workload_names):
            present = []
            for name in names:
                try:
                    _started(name, workload, caches)  # also fills the file caches, for all alike
                    present.append(name)
                except ContenderError as error:
                    missing.append(f"{workload.name}: {error}")
            step_100: dict[str, list[float]] = {}
            measures = {name: _measure(name, workload, caches, step_100) for name in present}
            first = timing.interleave(measures, rounds)
            rows += [_row(workload.name, name, first, step_100) for name in present]
    for line in missing:
        print(f"missing: {line}")
    result: dict[str, Any] = {"machine": machine.describe(), "versions": machine.versions()}
    return {**result, "rounds": rounds, "rows": rows, "missing": missing}


def _row(
    workload: str, name: str, first: dict[str, list[float]], step_100: dict[str, list[float]]
) -> dict[str, Any]:
    ours = step_100.get(race.OURS)
    return {
        "workload": workload,
        "contender": name,
        "first_step_s": timing.summarize(first[name]).median,
        "step_100_s": timing.summarize(step_100[name]).median,
        "step_100_s_min": timing.summarize(step_100[name]).minimum,
        "step_100_s_max": timing.summarize(step_100[name]).maximum,
        "ratio": timing.median_ratio(ours, step_100[name]) if ours else None,
    }
