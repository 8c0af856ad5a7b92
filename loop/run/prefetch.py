"""The calls of a training run, each one's input fetched while the one before it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

from loop.actions.meter import Meter
from loop.compiled.compiled_loop import Prepared
from loop.run.stall import wait_for_input


@dataclasses.dataclass(frozen=True)
class Call:
    """A call that can be made now.

    Attributes:
      step: finished steps before it.
      count: the steps that it runs.
      prepared: its input, from `CompiledLoop.prepare`.
    """

    step: int
    count: int
    prepared: Prepared


def prefetched_calls(
    prepare: Callable[[int, int], Prepared],
    count: Callable[[int], int],
    *,
    step: int,
    until: int,
    meter: Meter,
    stall_seconds: float,
    least: Callable[[int], int] = int,
) -> Generator[Call]:
    """The calls from `step` to `until`, or to the end of the input if that comes first.

    Close it to end the thread that fetches.

    Args:
      prepare: (step, count) -> a call's input; called in a thread, one at a time.
      count: step -> the steps of the call that starts there; asked once a call, before the call
        ahead of it is made.
      step: finished steps.
      until: where the last call ends.
      meter: counts the time that the run waits for input.
      stall_seconds: see `loop.run.stall.wait_for_input`.
      least: steps that there is input for -> those that there is input for on every worker.
    """
    with ThreadPoolExecutor(1, "prepare the next call") as background:

        def submitted(step: int) -> Future[Prepared]:
            return background.submit(prepare, step, count(step))

        following = submitted(step)
        while step < until:
            with meter.phase("input"):
                prepared = wait_for_input(following, step=step, seconds=stall_seconds)
            steps = least(prepared.count)
            if not steps:
                return
            call = Call(step, steps, prepared)
            step += steps
            following = submitted(step)
            yield call
