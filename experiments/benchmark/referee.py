"""The referee: starts contenders, races them in turns, checks that all train the same thing.

Those that are too slow to race are left out, with the reason.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Sequence
from typing import Any

from experiments.benchmark import timing
from experiments.benchmark.contenders.table import CONTENDERS, LOSS_TOLERANCE
from experiments.benchmark.measurement import Options
from experiments.benchmark.process import ContenderError, Process, Ready, TooSlowError

CALL_SECONDS = 1.0
"""A call of ours lasts no longer: `loop.trainer.CALL_SECONDS`, which cannot be read without
TensorFlow."""


def steps_a_call(ready: Ready) -> int:
    """The steps of one call, which is no longer than `CALL_SECONDS` for a contender of ours."""
    if not ready.compile:
        return ready.steps_per_call
    return max(1, min(ready.steps_per_call, int(CALL_SECONDS * 1e3 / max(ready.ms, 1e-6))))


def steps_a_round(ready: Ready, seconds: float) -> int:
    """Steps that fill about `seconds`, in whole calls, at least one."""
    steps = steps_a_call(ready)
    return max(1, round(seconds * 1e3 / max(ready.ms, 1e-6) / steps)) * steps


def agreement(losses: dict[str, list[float]]) -> dict[str, float]:
    """How far each contender's first losses are from the median contender's, relatively.

    Contenders without losses (the floor trains nothing) are left out; only those of the narrowest
    tolerance count for the median, where there are any.
    """
    stated = {name: values for name, values in losses.items() if values}
    exact = [each for name, each in stated.items() if CONTENDERS[name].tolerance == LOSS_TOLERANCE]
    middle = [statistics.median(step) for step in zip(*(exact or stated.values()), strict=True)]
    return {
        name: max(abs(a - b) / max(abs(b), 1e-3) for a, b in zip(values, middle, strict=True))
        for name, values in stated.items()
    }


def check(
    workload: str, losses: dict[str, list[float]], apart: Collection[str] = ()
) -> dict[str, Any]:
    """Whether the first losses of all but those that are `apart` agree; prints where not."""
    difference = agreement({name: each for name, each in losses.items() if name not in apart})
    tolerance = {name: CONTENDERS[name].tolerance for name in difference}
    agree = all(value <= tolerance[name] for name, value in difference.items())
    if not agree:
        print(f"{workload}: the first losses differ by too much: {difference}", flush=True)
    stated = {name: each for name, each in losses.items() if each}
    found = {"workload": workload, "tolerance": tolerance, "agree": agree}
    return {**found, "losses": stated, "difference": difference}


class Referee:
    """Contenders of one workload, raced as the options say; a context manager that ends them all.

    Attributes:
      ready: name -> what the contender reported.
      peaks: name -> the largest resident set in bytes, after its last round.
      measured: name -> what else it measured so far, after each round.
      skipped: name -> why there are no times of it.
      missing: one line for each contender that is not installed or that failed.
    """

    def __init__(self, workload: str, options: Options) -> None:
        self.ready: dict[str, Ready] = {}
        self.peaks: dict[str, int] = {}
        self.measured: dict[str, list[dict[str, float]]] = {}
        self.skipped: dict[str, str] = {}
        self.missing: list[str] = []
        self._workload = workload
        self._options = options
        self._running: dict[str, Process] = {}

    def __enter__(self) -> Referee:
        return self

    def __exit__(self, *_: object) -> None:
        self.dismiss(list(self._running))

    def admit(self, name: str, start: Callable[[], Process]) -> None:
        """Starts a contender and waits for it, so that none disturbs another's compilation."""
        limit, rounds = self._options.limit, self._options.rounds
        try:
            self._running[name] = start()
            ready = self._running[name].ready(limit)
        except ContenderError as error:
            self._remove(name, error, f"not ready within {limit:.0f} s")
            return
        needed = ready.ms / 1e3 * steps_a_round(ready, self._options.seconds) * rounds
        if needed > limit:
            slow = f"{ready.ms:.0f} ms a step: its rounds need {needed:.0f} s of {limit:.0f}"
            self._remove(name, TooSlowError(), slow)
            return
        self.ready[name] = ready
        print(f"{self._workload} {name}: ready in {ready.start_s:.1f} s", flush=True)

    def race(self, names: Sequence[str]) -> timing.Times:
        """Milliseconds a step in each round, of those of `names` that are alive to the end."""
        measures = {name: self._measure(name) for name in names if name in self._running}
        measured = timing.interleave(measures, self._options.rounds)
        return {name: times for name, times in measured.items() if name in self._running}

    def dismiss(self, names: Sequence[str]) -> None:
        """Ends contenders; what is known of them stays."""
        for name in names:
            if name in self._running:
                self._running.pop(name).end(seconds=5.0)

    def _measure(self, name: str) -> Callable[[], float]:
        steps, limit = steps_a_round(self.ready[name], self._options.seconds), self._options.limit

        def measure() -> float:
            if name not in self._running:
                return math.nan
            try:
                milliseconds, self.peaks[name], measured = self._running[name].go(steps, limit)
            except ContenderError as error:
                self._remove(name, error, f"a round was not over within {limit:.0f} s")
                return math.nan
            self.measured.setdefault(name, []).append(measured)
            return milliseconds

        return measure

    def _remove(self, name: str, error: ContenderError, slow: str) -> None:
        """Ends a contender that failed, or that is too slow: `slow` says in what."""
        if isinstance(error, TooSlowError):
            self.skipped[name] = slow
        else:
            self.missing.append(f"{self._workload}: {error}")
        self.ready.pop(name, None)
        if name in self._running:
            self._running.pop(name).end()
