"""The calls of a training run, one after another: how long each may be, compiled apart, made."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator

from loop.actions.meter import Meter, Phase
from loop.compiled.compiled_loop import CompiledLoop, Outcome
from loop.distribute import Replicas
from loop.errors import WorkerLostError
from loop.run.prefetch import prefetched_calls

_log = logging.getLogger(__name__)

CALL_SECONDS = 1.0
"""A call ends within about this time, so that a signal is answered and a stall is seen."""


class Calls:
    """Makes a run's calls.

    Args:
      replicas: where the steps run.
      meter: counts time, steps and examples.
      steps_per_call: the most steps a call runs.
      batch_size: examples a step.
      max_nonfinite: steps in a row that are not finite and are skipped.
      stall_seconds: see `loop.run.stall.wait_for_input`.
    """

    def __init__(
        self,
        replicas: Replicas,
        meter: Meter,
        *,
        steps_per_call: int,
        batch_size: int,
        max_nonfinite: int,
        stall_seconds: float,
    ) -> None:
        self._replicas = replicas
        self._meter = meter
        self._steps_per_call = steps_per_call
        self._batch_size = batch_size
        self._max_nonfinite = max_nonfinite
        self._stall_seconds = stall_seconds
        self._compiled = False
        self._streak = 0
        self._longest = 1

    def outcomes(
        self,
        loop: CompiledLoop,
        *,
        step: int,
        until: int,
        next_boundary: Callable[[int], int],
        save: Callable[[], None],
    ) -> Generator[Outcome]:
        """What each call did, from `step` to `until` or to the end of the input.

        Args:
          loop: makes the calls.
          step: finished steps.
          until: where the last call ends.
          next_boundary: step -> where a call from there must end at the latest.
          save: called before an error of the input is raised: the steps before it are not lost.
        """
        self._least(0)
        calls = prefetched_calls(
            loop.prepare,
            lambda step: min(self._longest, max(next_boundary(step) - step, 0)),
            step=step,
            until=until,
            meter=self._meter,
            stall_seconds=self._stall_seconds,
            least=self._least,
        )
        with contextlib.closing(calls):
            while True:
                try:
                    call = next(calls, None)
                except WorkerLostError:
                    raise
                except Exception:
                    save()
                    raise
                if call is None:
                    return
                phase: Phase = "train"
                if not self._compiled and loop.mode != "eager":
                    if loop.compiles_by_a_step:
                        phase = "compile"
                    else:
                        with self._meter.phase("compile"):
                            loop.run(call.prepared, 0)
                self._compiled = True
                with self._meter.phase(phase):
                    outcome = loop.run(
                        call.prepared,
                        call.count,
                        max_nonfinite=self._max_nonfinite,
                        streak=self._streak,
                    )
                self._streak = outcome.streak
                if phase == "train":
                    self._meter.count(len(outcome.rows), len(outcome.rows) * self._batch_size)
                yield outcome

    def _least(self, steps: int) -> int:
        """The steps that every worker has input for; it also agrees on how long a call may be."""
        # Before the first step is timed, a call of many could take minutes.
        seconds = self._meter.seconds_per_step
        limit = max(1, int(CALL_SECONDS / seconds)) if seconds else 1
        # Workers time their steps apart, and must make the same calls.
        table = self._replicas.gather([steps, min(self._steps_per_call, limit)])
        self._longest = int(table[:, 1].min())
        least = int(table[:, 0].min())
        if (table[:, 0] != least).any():
            _log.warning(
                "worker %d's input ended before another worker's: training ends with it; give "
                "every worker the same global batches",
                int(table[:, 0].argmin()),
            )
        return least
