"""Where a run's time goes, by kind of work."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Literal

Phase = Literal["compile", "input", "train", "evaluate", "checkpoint"]
PHASES: tuple[Phase, ...] = ("compile", "input", "train", "evaluate", "checkpoint")


class Meter:
    """Adds up seconds by phase, and counts steps and examples.

    A phase is host time until the result is on the host, so it is synchronised by construction.
    "input" is the time training *waited* for data; data fetched during a call costs nothing.

    Args:
      clock: seconds, monotonic; a test gives its own.

    Attributes:
      seconds: phase -> seconds so far.
      steps: steps run in "train".
      examples: examples in them.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self.steps = 0
        self.examples = 0
        self._clock = clock

    @contextlib.contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Adds the time inside the `with` block to a phase."""
        start = self._clock()
        try:
            yield
        finally:
            self.seconds[name] += self._clock() - start

    def count(self, steps: int, examples: int) -> None:
        """Counts finished steps and their examples."""
        self.steps += steps
        self.examples += examples

    @property
    def seconds_per_step(self) -> float:
        """Training time a step, without compile, input, evaluation, checkpoints; 0 before any."""
        return self.seconds["train"] / self.steps if self.steps else 0.0

    @property
    def examples_per_second(self) -> float:
        """Examples a second of training and waiting for input; 0 before any."""
        spent = self.seconds["train"] + self.seconds["input"]
        return self.examples / spent if spent else 0.0


def peak_rss_bytes() -> int:
    """The process's largest resident set so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
