"""Measures contenders side by side: interleaved rounds, medians, ratios of the same round.

The machine's speed drifts (other processes, clock, temperature). So each round runs every
contender once, A B C A B C ..., and a ratio is taken within a round and then the median over the
rounds: drift hits both sides of a ratio alike. What is measured ends with its result on the host.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

MIN_ROUNDS = 5
Times = dict[str, list[float]]
"""Contender -> milliseconds, or what else it measures, in each round."""


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """A row's entries of one contender: the median over its rounds, the least and the most."""
    if not values:
        raise ValueError("timing: expected at least one round, found none")
    return {
        name: statistics.median(values),
        f"{name}_min": min(values),
        f"{name}_max": max(values),
    }


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over the rounds of ours / theirs, of the same rounds."""
    if len(ours) != len(theirs) or not ours:
        raise ValueError(
            f"timing: expected the same rounds on both sides, found {len(ours)} and {len(theirs)}"
        )
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def interleave(contenders: Mapping[str, Callable[[], float]], rounds: int) -> Times:
    """Runs every contender once a round, in order; each waits for its result and returns a time."""
    if rounds < MIN_ROUNDS:
        raise ValueError(f"timing: expected at least {MIN_ROUNDS} rounds, found {rounds}")
    measured: Times = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            measured[name].append(measure())
    return measured


def per_call(run: Callable[[], object], calls: int) -> Callable[[], float]:
    """A measurement for `interleave`: the milliseconds a call of `run`, over `calls` calls."""

    def measure() -> float:
        started = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - started) * 1e3 / calls

    return measure


def filling(run: Callable[[], object], seconds: float) -> Callable[[], float]:
    """`per_call` over as many calls of an already compiled `run` as fill about `seconds`."""
    return per_call(run, max(1, round(seconds * 1e3 / max(per_call(run, 1)(), 1e-3))))
