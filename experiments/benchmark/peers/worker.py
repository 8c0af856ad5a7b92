"""A contender's side of the race: builds the step, then answers the parent's orders.

Lines on stdin and stdout, one JSON object each way:

    worker: {"ready": {"compile_s": s, "losses": [...], "ms": ms, "steps_per_call": K,
             "compile": mode, "note": text, "versions": {...}}}
    parent: go N
    worker: {"ms": milliseconds a step, "peak_rss_bytes": bytes, "measured": {name: number}}
    parent: quit

With --started_at the worker measures its start instead, and ends after one line:

    worker: {"first_step_s": s, "step_100_s": s}

Whatever a library prints goes to stderr, so that it cannot be taken for an answer.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from typing import Protocol

from experiments.benchmark import workloads

CHECKED_STEPS = 3
START_UP_STEPS = 100


class Contender(Protocol):
    """A step built and ready to be timed."""

    def first_losses(self, count: int) -> list[float]:
        """Trains on batches 0 .. count-1 from the initial weights; each step's loss."""

    def run(self, steps: int) -> float | None:
        """Trains `steps` steps and fetches the last result.

        Returns:
          The seconds it took, or None to be timed from outside.
        """


Build = Callable[[workloads.Workload, int], Contender]


def peak_rss_bytes() -> int:
    """The largest resident set of this process so far.

    Linux's `ru_maxrss` starts at the parent's size at fork; VmHWM belongs to this program alone.
    """
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


DISTRIBUTIONS = (
    *("tensorflow", "keras", "tf_keras", "tf-models-official"),
    *("jax", "jaxlib", "optax", "torch", "numpy"),
)


def _versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _timed(contender: Contender, steps: int) -> float:
    started = time.perf_counter()
    seconds = contender.run(steps)
    elapsed = time.perf_counter() - started
    return (elapsed if seconds is None else seconds) * 1e3 / steps


def _start_up(contender: Contender, steps_per_call: int, started_at: float) -> dict[str, object]:
    """Seconds from the process's start to the end of step 1 and of step 100.

    A contender of fixed calls (`lax.scan`) is at its first step when its first call ends.
    """
    smallest = steps_per_call if getattr(contender, "fixed_calls", False) else 1
    contender.run(smallest)
    first = time.time() - started_at
    done = smallest
    while done < START_UP_STEPS:
        steps = min(steps_per_call, max(smallest, START_UP_STEPS - done))
        contender.run(steps)
        done += steps
    return {"first_step_s": first, "step_100_s": time.time() - started_at}


def serve(build: Build) -> None:
    """Runs the worker: builds, warms up, and answers until `quit` or the end of stdin."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workload", required=True, choices=sorted(workloads.WORKLOADS))
    parser.add_argument("--steps_per_call", type=int, default=0)
    parser.add_argument("--started_at", type=float, help="seconds since the epoch")
    arguments = parser.parse_args()
    workload = workloads.WORKLOADS[arguments.workload]
    steps_per_call = arguments.steps_per_call or workload.steps_per_call
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: dict[str, object]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    started = time.perf_counter()
    contender = build(workload, steps_per_call)
    if arguments.started_at is not None:
        answer(_start_up(contender, steps_per_call, arguments.started_at))
        return
    losses = contender.first_losses(CHECKED_STEPS)
    contender.run(steps_per_call)
    compile_s = time.perf_counter() - started
    ready = {
        "compile_s": compile_s,
        "losses": losses,
        "ms": _timed(contender, steps_per_call),
        "steps_per_call": getattr(contender, "steps_per_call", steps_per_call),
        "compile": getattr(contender, "compile", ""),
        "note": getattr(contender, "note", ""),
        "versions": _versions(),
    }
    answer({"ready": ready})
    for line in sys.stdin:
        order = line.split()
        if order[:1] != ["go"]:
            break
        milliseconds = _timed(contender, int(order[1]))
        measured: dict[str, float] = getattr(contender, "measured", dict)()
        answer({"ms": milliseconds, "peak_rss_bytes": peak_rss_bytes(), "measured": measured})
