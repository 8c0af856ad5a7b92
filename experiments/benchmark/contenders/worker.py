"""A contender's side of the race: builds the step, then answers the referee's orders.

    python -m experiments.benchmark.contenders.worker CONTENDER --workload=NAME

Lines on stdin and stdout, one JSON object each way:

    worker: {"ready": {"compile_s": s, "losses": [...], "ms": ms, "steps_per_call": K,
             "compile": mode, "note": text, "versions": {...}}}
    referee: go N
    worker: {"ms": milliseconds a step, "peak_rss_bytes": bytes, "measured": {name: number}}

With --started_at the worker measures its start instead, and ends after one line:

    worker: {"first_step_s": s, "step_100_s": s}

Whatever a library prints goes to stderr, so that it cannot be taken for an answer.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import sys
import time

from experiments.benchmark import machine, workloads
from experiments.benchmark.contenders.base import Base
from experiments.benchmark.contenders.table import CONTENDERS

CHECKED_STEPS = 3
START_UP_STEPS = 100
DISTRIBUTIONS = (
    *("tensorflow", "keras", "tf_keras", "tf-models-official"),
    *("jax", "jaxlib", "optax", "torch", "numpy"),
)


def peak_rss_bytes() -> int:
    """The largest resident set of this process so far.

    Linux's `ru_maxrss` starts at the parent's size at fork; VmHWM belongs to this program only.
    """
    peak = machine.first_field("/proc/self/status", "VmHWM")
    if peak is not None:
        return int(peak.split()[0]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _timed(contender: Base, steps: int) -> float:
    started = time.perf_counter()
    seconds = contender.run(steps)
    elapsed = time.perf_counter() - started
    return (elapsed if seconds is None else seconds) * 1e3 / steps


def _start_up(contender: Base, steps_per_call: int, started_at: float) -> dict[str, float]:
    """Seconds from the process's start to the end of step 1 and of step 100.

    A contender of fixed calls (`lax.scan`) is at its first step when its first call ends.
    """
    done = smallest = steps_per_call if contender.fixed_calls else 1
    contender.run(smallest)
    first = time.time() - started_at
    while done < START_UP_STEPS:
        steps = min(steps_per_call, max(smallest, START_UP_STEPS - done))
        contender.run(steps)
        done += steps
    return {"first_step_s": first, "step_100_s": time.time() - started_at}


def main() -> None:
    """Builds, warms up, and answers until the end of stdin."""
    parser = argparse.ArgumentParser()
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("--workload", required=True, choices=sorted(workloads.WORKLOADS))
    parser.add_argument("--steps_per_call", type=int, help="0 for the workload's")
    parser.add_argument("--started_at", type=float, help="seconds since the epoch")
    arguments = parser.parse_args()
    workload, entry = workloads.WORKLOADS[arguments.workload], CONTENDERS[arguments.contender]
    steps_per_call = arguments.steps_per_call or workload.steps_per_call
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: object) -> None:
        print(json.dumps(message), file=answers, flush=True)

    module = importlib.import_module(f"experiments.benchmark.contenders.{entry.module}")
    started = time.perf_counter()
    contender: Base = module.Contender(workload, steps_per_call, **entry.settings)
    if arguments.started_at is not None:
        answer(_start_up(contender, steps_per_call, arguments.started_at))
        return
    losses = contender.first_losses(CHECKED_STEPS)
    contender.run(steps_per_call)
    ready = {
        "compile_s": time.perf_counter() - started,
        "losses": losses,
        "ms": _timed(contender, steps_per_call),
        "steps_per_call": contender.steps_per_call or steps_per_call,
        "compile": contender.compile,
        "note": contender.note,
        "versions": machine.versions(DISTRIBUTIONS),
    }
    answer({"ready": ready})
    for line in sys.stdin:
        milliseconds = _timed(contender, int(line.removeprefix("go ")))
        rest = {"peak_rss_bytes": peak_rss_bytes(), "measured": contender.measured()}
        answer({"ms": milliseconds, **rest})


if __name__ == "__main__":
    main()
