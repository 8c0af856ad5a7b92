"""The referee: starts contenders, races those that are alive in turns, leaves out the hopeless."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from experiments.benchmark import timing
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
    calls = seconds * 1e3 / max(ready.ms, 1e-6) / steps
    return max(1, round(calls)) * steps


class Referee:
    """Contenders of one workload; a context manager that ends them all.

    Args:
      workload: its name, for the log.
      rounds: rounds to interleave.
      seconds: about how long a contender runs in a round.
      limit: the most seconds that a contender may take until it is ready, and again over all its
        rounds.

    Attributes:
      ready: name -> what the contender reported.
      peaks: name -> the largest resident set in bytes, after its last round.
      skipped: name -> why there are no times of it.
      missing: one line for each contender that is not installed or that failed.
    """

    def __init__(self, workload: str, *, rounds: int, seconds: float, limit: float) -> None:
        self.ready: dict[str, Ready] = {}
        self.peaks: dict[str, int] = {}
        self.skipped: dict[str, str] = {}
        self.missing: list[str] = []
        self._workload = workload
        self._rounds = rounds
        self._seconds = seconds
        self._limit = limit
        self._running: dict[str, Process] = {}

    def __enter__(self) -> Referee:
        return self

    def __exit__(self, *_: object) -> None:
        self.dismiss(list(self._running))

    def admit(self, name: str, start: Callable[[], Process]) -> None:
        """Starts a contender and waits for it, so that none disturbs another's compilation."""
        try:
            process = self._running[name] = start()
            ready = process.ready(self._limit)
        except TooSlowError:
            self._skip(name, f"not ready within {self._limit:.0f} s")
            return
        except ContenderError as error:
            self._fail(name, error)
            return
        needed = ready.ms / 1e3 * steps_a_round(ready, self._seconds) * self._rounds
        if needed > self._limit:
            self._skip(
                name,
                f"{ready.ms:.0f} ms a step: its rounds need {needed:.0f} s of {self._limit:.0f}",
            )
            return
        self.ready[name] = ready
        print(f"{self._workload} {name}: ready in {ready.start_s:.1f} s", flush=True)

    def race(self, names: Sequence[str]) -> dict[str, list[float]]:
        """Milliseconds a step in each round, of those of `names` that are alive to the end."""
        present = [name for name in names if name in self._running]
        measured = timing.interleave({name: self._measure(name) for name in present}, self._rounds)
        return {name: times for name, times in measured.items() if name in self._running}

    def dismiss(self, names: Sequence[str]) -> None:
        """Ends contenders; what is known of them stays."""
        for name in names:
            if name in self._running:
                self._running.pop(name).end(seconds=5.0)

    def _measure(self, name: str) -> Callable[[], float]:
        steps = steps_a_round(self.ready[name], self._seconds)

        def measure() -> float:
            if name not in self._running:
                return math.nan
            try:
                milliseconds, self.peaks[name] = self._running[name].go(steps, self._limit)
            except TooSlowError:
                self._skip(name, f"a round was not over within {self._limit:.0f} s")
                return math.nan
            except ContenderError as error:
                self._fail(name, error)
                return math.nan
            return milliseconds

        return measure

    def _skip(self, name: str, reason: str) -> None:
        self.skipped[name] = reason
        print(f"{self._workload} {name}: skipped: {reason}", flush=True)
        self._remove(name)

    def _fail(self, name: str, error: ContenderError) -> None:
        self.missing.append(f"{self._workload}: {error}")
        print(f"missing: {self._workload}: {error}", flush=True)
        self._remove(name)

    def _remove(self, name: str) -> None:
        self.ready.pop(name, None)
        if name in self._running:
            self._running.pop(name).end()
