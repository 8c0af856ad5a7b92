"""Measures contenders side by side: interleaved rounds, medians, ratios of the same round.

The machine's speed drifts (other processes, clock, temperature). So each round runs every
contender once, A B C A B C ..., and a ratio is taken within a round and then the median over the
rounds: drift hits both sides of a ratio alike. What is measured ends with its result on the host.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

MIN_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Summary:
    """The middle and the spread of a contender's rounds, all in milliseconds."""

    median: float
    minimum: float
    maximum: float


def summarize(milliseconds: Sequence[float]) -> Summary:
    """Median, minimum and maximum of one contender's rounds.

    Raises:
      ValueError: when there is no round.
    """
    if not milliseconds:
        raise ValueError("timing: expected at least one round, found none")
    return Summary(statistics.median(milliseconds), min(milliseconds), max(milliseconds))


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over the rounds of ours / theirs.

    Args:
      ours: our time in each round.
      theirs: the other contender's time in the same rounds.

    Raises:
      ValueError: when the numbers of rounds differ or there is none.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(
            f"timing: expected the same rounds on both sides, found {len(ours)} and {len(theirs)}"
        )
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def interleave(
    contenders: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Runs every contender once a round and collects what each measured.

    Args:
      contenders: name -> function that runs, waits for its result and returns milliseconds.
      rounds: number of rounds, at least `MIN_ROUNDS`.

    Raises:
      ValueError: with fewer rounds than `MIN_ROUNDS`.
    """
    if rounds < MIN_ROUNDS:
        raise ValueError(f"timing: expected at least {MIN_ROUNDS} rounds, found {rounds}")
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            measured[name].append(measure())
    return measured


def per_call(run: Callable[[], object], calls: int) -> Callable[[], float]:
    """A measurement for `interleave`: the milliseconds a call of `run`, over `calls` calls.

    Args:
      run: does the work and fetches its result to the host, so that nothing is left in flight.
      calls: calls a round.
    """

    def measure() -> float:
        started = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - started) * 1e3 / calls

    return measure


def calls_for(run: Callable[[], object], seconds: float) -> int:
    """How many calls of an already compiled `run` fill about `seconds`; at least one."""
    started = time.perf_counter()
    run()
    return max(1, round(seconds / max(time.perf_counter() - started, 1e-6)))
