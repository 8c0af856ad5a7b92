"""What streaming costs: augmented TFRecords against the same examples on the device.

Both train the same steps on the same batches, augmented in the step. The shards are written before
and read from the page cache: what is measured is our reading, checking and parsing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from experiments.benchmark import timing, workloads
from experiments.benchmark.contenders import tapestep_fed
from experiments.benchmark.measurement import Measurement, Options, Result, Row
from experiments.benchmark.process import Process, Ready, fresh_caches
from experiments.benchmark.referee import steps_a_round
from experiments.data import shards

FEEDS = ("resident", "records")


class Noted(NamedTuple):
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
    workload: str, feed: str, times: dict[str, list[float]], noted: Sequence[Noted], ready: Ready
) -> Row:
    """A feed's row; its ratio is its steps a second divided by the resident feed's, by rounds."""
    ratios = [a / b for a, b in zip(times["resident"], times[feed], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "workload": workload,
        "feed": feed,
        **timing.spread("ms", times[feed]),
        "steps_per_s": 1e3 / statistics.median(times[feed]),
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


def _race(workload: str, options: Options) -> Result:
    """One workload's rows, after a round that warms up, and whether the first losses are equal."""
    noted: dict[str, list[Noted]] = {feed: [] for feed in FEEDS}
    with fresh_caches() as caches:
        shards.paths(caches, tapestep_fed.dataset(workloads.WORKLOADS[workload]))
        with (
            Process("tapestep_resident", workload, caches) as resident,
            Process("tapestep_records", workload, caches) as streamed,
        ):
            processes = dict(zip(FEEDS, (resident, streamed), strict=True))
            ready = {feed: process.ready() for feed, process in processes.items()}
            measures = {
                feed: _measure(process, steps_a_round(ready[feed], options.seconds), noted[feed])
                for feed, process in processes.items()
            }
            for feed, measure in measures.items():
                measure()
                noted[feed].clear()
            times = timing.interleave(measures, options.rounds)
    losses = {feed: one.losses for feed, one in ready.items()}
    equal = losses["resident"] == losses["records"]
    if not equal:
        print(f"{workload}: the first losses differ: {losses}", flush=True)
    return {
        "rows": [row(workload, feed, times, noted[feed], ready[feed]) for feed in FEEDS],
        "checks": [{"workload": workload, "losses": losses, "equal": equal}],
    }


def run(options: Options) -> Iterator[Result]:
    """Races the feeds on a workload after the other."""
    yield {"examples": tapestep_fed.EXAMPLES}
    for workload in options.workloads:
        yield _race(workload, options)


# A round is many calls of up to a second: the first call of each has its input still to wait for.
MEASUREMENT = Measurement(run, workloads=("cnn", "resnet20"), default=("cnn",), seconds=(10.0, 2.0))
