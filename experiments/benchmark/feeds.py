"""What streaming costs: augmented TFRecords against the same examples on the device.

Both train the same steps on the same batches, augmented in the step. The shards are written before
and read from the page cache: what is measured is our reading, checking and parsing.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from experiments.benchmark import machine, timing, workloads
from experiments.benchmark.peers import fed
from experiments.benchmark.process import Process, Ready, fresh_caches
from experiments.benchmark.referee import steps_a_round
from experiments.data import shards

WORKLOADS = ("cnn",)
FEEDS = ("resident", "records")
SECONDS, QUICK_SECONDS = 10.0, 2.0
"""A round is many calls of up to a second: the first call of each has its input still to wait
for."""


@dataclasses.dataclass(frozen=True)
class Noted:
    """What a round told besides its time.

    Attributes:
      waiting: the share of its time that it waited for the feed.
      cpu_ms: a step's, of all threads together, those that read and parse included.
      peak_rss_bytes: so far.
    """

    waiting: float
    cpu_ms: float
    peak_rss_bytes: int


def row(
    workload: str,
    feed: str,
    milliseconds: dict[str, list[float]],
    noted: Sequence[Noted],
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
        "waiting": statistics.median(each.waiting for each in noted),
        "cpu_ms": statistics.median(each.cpu_ms for each in noted),
        "peak_rss_bytes": noted[-1].peak_rss_bytes,
        "compile": ready.compile,
    }


def _measure(process: Process, steps: int, noted: list[Noted]) -> Callable[[], float]:
    """A round: its milliseconds a step; notes the rest."""

    def measure() -> float:
        before = dict(process.measured)
        milliseconds, peak = process.go(steps)
        spent = {name: value - before.get(name, 0.0) for name, value in process.measured.items()}
        waiting = spent["input"] / (milliseconds * steps / 1e3)
        noted.append(Noted(waiting, spent["cpu"] * 1e3 / steps, peak))
        return milliseconds

    return measure


def _race(workload: workloads.Workload, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Rows of one workload, and whether the feeds' first losses are equal."""
    noted: dict[str, list[Noted]] = {feed: [] for feed in FEEDS}
    with fresh_caches() as caches:
        shards.paths(caches, fed.dataset(workload))
        start = functools.partial(Process, workload=workload.name, steps_per_call=0, caches=caches)
        with start("tapestep_resident") as resident, start("tapestep_records") as streamed:
            processes = {"resident": resident, "records": streamed}
            ready = {name: process.ready() for name, process in processes.items()}
            rounds_of = {
                name: _measure(process, steps_a_round(ready[name], seconds), noted[name])
                for name, process in processes.items()
            }
            for feed, measure in rounds_of.items():
                measure()
                noted[feed].clear()
            measured = timing.interleave(rounds_of, rounds)
    rows = [row(workload.name, feed, measured, noted[feed], ready[feed]) for feed in FEEDS]
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
