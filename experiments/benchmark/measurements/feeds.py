"""What streaming costs: augmented TFRecords against the same examples on the device.

Both train the same steps on the same batches, augmented in the step. The shards are written before
and read from the page cache: what is measured is our reading, checking and parsing.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Iterator, Sequence

from experiments.benchmark import timing, workloads
from experiments.benchmark.contenders import tapestep_fed
from experiments.benchmark.measurement import Measurement, Options, Result, Row
from experiments.benchmark.process import Process, fresh_caches
from experiments.benchmark.referee import Referee, steps_a_round
from experiments.data import shards

FEEDS = ("resident", "records")


def row(
    workload: str, feed: str, times: timing.Times, spent: Sequence[dict[str, float]], steps: int
) -> Row:
    """A feed's row; its ratio is its steps a second divided by the resident feed's, by rounds.

    Args:
      workload: its name.
      feed: which.
      times: milliseconds a step in each round.
      spent: seconds of waiting for the "input", and of all threads' "cpu", until the beginning of
        the first round and then until the end of each.
      steps: of a round.
    """
    ratios = [a / b for a, b in zip(times["resident"], times[feed], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    rounds = list(zip(times[feed], spent, spent[1:], strict=False))
    waiting = ((b["input"] - a["input"]) * 1e3 / (ms * steps) for ms, a, b in rounds)
    cpu = ((b["cpu"] - a["cpu"]) * 1e3 / steps for _, a, b in rounds)
    return {
        "workload": workload,
        "feed": feed,
        **timing.spread("ms", times[feed]),
        "steps_per_s": 1e3 / statistics.median(times[feed]),
        "ratio": middle,
        "ratio_q1": low,
        "ratio_q3": high,
        "waiting": statistics.median(waiting),
        "cpu_ms": statistics.median(cpu),
    }


def _race(workload: str, options: Options) -> Result:
    """One workload's rows, after a round that warms up, and whether the first losses are equal."""
    warm = dataclasses.replace(options, rounds=options.rounds + 1)
    with fresh_caches() as caches, Referee(workload, warm) as referee:
        shards.paths(caches, tapestep_fed.dataset(workloads.WORKLOADS[workload]))
        for feed in FEEDS:
            referee.admit(feed, functools.partial(Process, f"tapestep_{feed}", workload, caches))
        times = {feed: times[1:] for feed, times in referee.race(FEEDS).items()}
    rows: list[Row] = [
        {"workload": workload, "feed": feed, "skipped": reason}
        for feed, reason in referee.skipped.items()
    ]
    if len(times) < len(FEEDS):
        return {"rows": rows, "missing": referee.missing}
    for feed, ready in referee.ready.items():
        steps = steps_a_round(ready, options.seconds)
        found = row(workload, feed, times, referee.measured[feed], steps)
        rows.append({**found, "peak_rss_bytes": referee.peaks[feed], "compile": ready.compile})
    losses = {feed: ready.losses for feed, ready in referee.ready.items()}
    equal = losses["resident"] == losses["records"]
    if not equal:
        print(f"{workload}: the first losses differ: {losses}", flush=True)
    return {"rows": rows, "checks": [{"workload": workload, "losses": losses, "equal": equal}]}


def run(options: Options) -> Iterator[Result]:
    """Races the feeds on a workload after the other."""
    yield {"examples": tapestep_fed.EXAMPLES}
    for workload in options.workloads:
        yield _race(workload, options)


# A round is many calls of up to a second: the first call of each has its input still to wait for.
MEASUREMENT = Measurement(run, workloads=("cnn", "resnet20"), default=("cnn",), seconds=(10.0, 2.0))
