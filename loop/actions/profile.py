"""A profiler's trace of some steps, for TensorBoard or Perfetto."""

from __future__ import annotations

import os

import tensorflow as tf

from loop.actions.running import Running

_NEVER = 2**63 - 1


class Profile:
    """Traces the steps from `first` to before `last`; calls are cut at both.

    Given to a trainer among its `actions`. TensorBoard's profile plugin opens the trace from
    `directory`. A run resumed after `first` traces nothing; one that ends before `last` ends the
    trace there.

    Args:
      first: finished steps before the trace, at least 1: the first step compiles.
      last: finished steps at its end, above `first`.
      directory: where to; on each worker its own.

    Attributes:
      at_start: see `Every`.
      at_end: see `Every`.

    Raises:
      ValueError: on steps out of order.
    """

    at_start = True
    at_end = True

    def __init__(self, first: int, last: int, directory: str | os.PathLike[str]) -> None:
        if not 1 <= first < last:
            raise ValueError(f"Profile: expected 1 <= first < last, got {first} and {last}")
        self._first = first
        self._last = last
        self._directory = os.fspath(directory)
        self._running = False

    def next_boundary(self, step: int) -> int:
        """The next of the two steps; a number that no run reaches after both."""
        if step < self._first:
            return self._first
        return self._last if step < self._last else _NEVER

    def is_due(self, step: int) -> bool:
        """Whether `step` is one of the two."""
        return step in (self._first, self._last)

    def action(self, trainer: Running) -> None:
        """Starts the trace at `first`; ends it at `last`, or wherever training ends."""
        if int(trainer.global_step) == self._first:
            if not self._running:
                tf.profiler.experimental.start(self._directory)
            self._running = True
        elif self._running:
            tf.profiler.experimental.stop()
            self._running = False
