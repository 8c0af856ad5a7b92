"""What streaming costs: augmented TFRecords against the same examples on the device.

Both train the same steps on the same batches, augmented in the step. The shards are written before
and read from the page cache: what is measured is our reading, checking and parsing.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from experiments import shards
from experiments.benchmark import machine, timing, workloads
from experiments.benchmark.peers import fed
from experiments.benchmark.process import Process, Ready, fresh_caches
from experiments.benchmark.referee import steps_a_round

WORKLOADS = ("cnn",)
FEEDS = ("resident", "records")
SECONDS, QUICK_SECONDS = 10.0, 2.0
"""A round is many calls of up to a second: the first call of each has its input still to wait
for."""


def row(
    workload: str,
    feed: str,
    milliseconds: dict[str, list[float]],
    waiting: Sequence[float],
    peak_rss_bytes: int,
    ready: Ready,
) -> dict[str, Any]:
    """A feed's row; its ratio is its steps a second divided by the resident feed's, by rounds."""
    summary = timing.summarize(milliseconds[feed])
    ratios = [a / b for a, b in zip(milliseconds["resident"], milliseconds[feed], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "workload": workload,
        "feed": feed,
        "ms": summary.median,
        "ms_min": summary.minimum,
        "ms_max": summary.maximum,
        "steps_per_s": 1e3 / summary.median,
        "ratio": middle,
        "ratio_q1": low,
        "ratio_q3": high,
        "waiting": statistics.median(waiting),
        "peak_rss_bytes": peak_rss_bytes,
        "compile": ready.compile,
    }


def _measure(
    process: Process, steps: int, waiting: list[float], peaks: list[int]
) -> Callable[[], float]:
    """A round: its milliseconds a step; notes the share of time that waited for the feed."""

    def measure() -> float:
        before = process.measured.get("input", 0.0)
        milliseconds, peak = process.go(steps)
        spent = process.measured["input"] - before
        waiting.append(spent / (milliseconds * steps / 1e3))
        peaks.append(peak)
        return milliseconds

    return measure


def _race(workload: workloads.Workload, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Rows of one workload, and whether the feeds' first losses are equal."""
    waiting: dict[str, list[float]] = {feed: [] for feed in FEEDS}
    peaks: dict[str, list[int]] = {feed: [] for feed in FEEDS}
    with fresh_caches() as caches:
        shards.paths(caches, fed.dataset(workload))
        start = functools.partial(Process, workload=workload.name, steps_per_call=0, caches=caches)
        with start("tapestep_resident") as resident, start("tapestep_records") as streamed:
            processes = {"resident": resident, "records": streamed}
            ready = {name: process.ready() for name, process in processes.items()}
            rounds_of = {
                name: _measure(
                    process, steps_a_round(ready[name], seconds), waiting[name], peaks[name]
                )
                for name, process in processes.items()
            }
            for measure in rounds_of.values():
                measure()
            for noted in waiting.values():
                noted.clear()
            measured = timing.interleave(rounds_of, rounds)
    rows = [
        row(workload.name, feed, measured, waiting[feed], peaks[feed][-1], ready[feed])
        for feed in FEEDS
    ]
    losses = {name: one.losses for name, one in ready.items()}
    check = {"losses": losses, "equal": losses["resident"] == losses["records"]}
    return {"rows": rows, "check": {"workload": workload.name, **check}}


def run(workload_names: Sequence[str], *, rounds: int, seconds: float) -> dict[str, Any]:
    """Races the feeds on each workload; what goes into the JSON file.

    Args:
      workload_names: keys of `workloads.WORKLOADS`, of images.
      rounds: rounds to interleave, after one that warms up.
      seconds: about how long a feed trains in a round.
    """
    result: dict[str, Any] = {"machine": machine.describe(), "versions": machine.versions()}
    result |= {"rounds": rounds, "examples": fed.EXAMPLES, "rows": [], "checks": []}
    for name in workload_names:
        outcome = _race(workloads.WORKLOADS[name], rounds=rounds, seconds=seconds)
        result["rows"] += outcome["rows"]
        result["checks"].append(outcome["check"])
        if not outcome["check"]["equal"]:
            print(f"the first losses differ: {outcome['check']['losses']}", flush=True)
    return result
