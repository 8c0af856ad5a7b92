"""How long people wait: from the start of a process to its first step, and to step 100."""

from __future__ import annotations

import functools
import pathlib
import statistics
from collections.abc import Iterator

from experiments.benchmark import timing, workloads
from experiments.benchmark.measurement import Measurement, Options, Result
from experiments.benchmark.measurements.steps import OURS
from experiments.benchmark.process import ContenderError, Process, fresh_caches


def _race(workload: str, caches: pathlib.Path, options: Options) -> Result:
    """Starts every contender once a round."""
    first: dict[str, list[float]] = {}
    missing: list[str] = []

    def started(name: str) -> float:
        with Process(name, workload, caches / name, start_up=True) as process:
            answer = process.answer()
        first.setdefault(name, []).append(float(answer["first_step_s"]))
        return float(answer["step_100_s"])

    for name in options.contenders:
        try:
            started(name)  # also fills the file caches, for all alike
        except ContenderError as error:
            missing.append(f"{workload}: {error}")
    measures = {name: functools.partial(started, name) for name in first}
    first.clear()
    step_100 = timing.interleave(measures, options.rounds)
    ours = step_100.get(OURS)
    rows = [
        {
            "workload": workload,
            "contender": name,
            "first_step_s": statistics.median(first[name]),
            **timing.spread("step_100_s", seconds),
            "ratio": timing.median_ratio(ours, seconds) if ours else None,
        }
        for name, seconds in step_100.items()
    ]
    return {"rows": rows, "missing": missing}


def run(options: Options) -> Iterator[Result]:
    """Measures on a workload after the other."""
    with fresh_caches() as caches:
        for workload in options.workloads:
            yield _race(workload, caches, options)


MEASUREMENT = Measurement(
    run,
    workloads=tuple(workloads.WORKLOADS),
    default=("mlp", "cnn"),
    quick=("mlp",),
    # Not keras_best, which searches, and not the floor, which trains nothing.
    contenders=(
        *(OURS, "keras_default", "plain_graph", "orbit_graph", "orbit_xla"),
        *("jax_step", "jax_scan", "torch_eager", "torch_compile", "bare"),
    ),
)
