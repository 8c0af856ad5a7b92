"""What the finite check costs a step: the same training with it and without.

Without it every value is called finite while the loop is traced, so that TensorFlow folds away the
check and what hangs on it, and the optimizer is told of none. Both loops train the same variables
on the same data, call by call in turn, and a ratio is taken of two neighbours: two trainers of one
program differ by more than the check, by where their memory lies. Several pairs of loops are
traced, since two traces of one function may be scheduled differently.
"""

from __future__ import annotations

import contextlib
import pathlib
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import tensorflow as tf

from experiments import flags
from experiments.benchmark import machine, workloads
from experiments.benchmark.peers.tapestep import Tapestep
from experiments.data import datasets
from experiments.training import steps as program_steps
from experiments.training import training_run
from loop import distribute
from loop.compiled.compiled_loop import CompiledLoop, Mode
from loop.feeds import Feed
from loop.global_step import GlobalStep
from loop.optimizers import Optimizer

PAIRS, QUICK_PAIRS = 7, 2
ROUNDS, QUICK_ROUNDS = 20, 10
GOAL = 1.01
"""The most that a step with the check may take of one without."""

PROGRAM = "program"
"""What `python -m experiments.train` trains, beside the race's workloads."""


class Training(NamedTuple):
    """What a loop is traced from; `compile` and `steps_per_call` as a user's run chooses."""

    step: Any
    feed: Feed
    compile: Mode
    steps_per_call: int


@contextlib.contextmanager
def _unchecked() -> Iterator[None]:
    """Inside the `with` block steps are traced without the check."""
    apply = Optimizer.apply

    def always(optimizer: Optimizer, gradients: Any, **arguments: Any) -> None:
        apply(optimizer, gradients, **{**arguments, "finite": None})

    with (
        mock.patch.object(tf.math, "is_finite", lambda x: tf.fill(x.shape, True)),
        mock.patch.object(Optimizer, "apply", always),
    ):
        yield


def _raced(workload: workloads.Workload) -> Training:
    like = Tapestep(workload, 0)
    return Training(like.step, like.feed, like.compile, workload.steps_per_call)


def _program() -> Training:
    settings = flags.parse(["train"])
    data = datasets.load(settings.dataset, settings.data_dir)
    total = program_steps.total(settings, data)
    made = training_run.parts(settings, data, distribute.single(), total, pathlib.Path())
    # `--compile=auto` takes the graph for a run of a second.
    return Training(made["step"], made["feed"], "graph", 64)


def _traced(chosen: Training, counter: GlobalStep, *, checked: bool) -> CompiledLoop:
    """A loop over the training, run once."""
    compiled = CompiledLoop(
        chosen.step,
        chosen.feed,
        mode=chosen.compile,
        steps_per_call=chosen.steps_per_call,
        global_step=counter,
        replicas=distribute.single(),
    )
    with contextlib.nullcontext() if checked else _unchecked():
        _milliseconds(compiled, chosen.steps_per_call)
    return compiled


def _milliseconds(compiled: CompiledLoop, steps: int) -> float:
    chunk = compiled.prepare(compiled.first_step(), steps)
    started = time.perf_counter()
    compiled.run(chunk, steps)
    return (time.perf_counter() - started) * 1e3 / steps


def median_bounds(values: Sequence[float]) -> tuple[float, float]:
    """Order statistics that hold the median with 95 % confidence (binomial, by its normal form)."""
    ordered, count = sorted(values), len(values)
    reach = 0.98 * count**0.5
    low = max(0, round(count / 2 - reach) - 1)
    return ordered[low], ordered[count - 1 - low]


def _row(name: str, mode: str, times: Sequence[tuple[float, float]]) -> dict[str, Any]:
    ratios = [checked / unchecked for checked, unchecked in times]
    low, high = median_bounds(ratios)
    return {
        "workload": name,
        "compile": mode,
        "ms": statistics.median(checked for checked, _ in times),
        "ms_unchecked": statistics.median(unchecked for _, unchecked in times),
        "ratio": statistics.median(ratios),
        "ratio_low": low,
        "ratio_high": high,
        "goal": GOAL,
        "n": len(times),
    }


def _measured(name: str, pairs: int, rounds: int) -> dict[str, Any]:
    chosen = _program() if name == PROGRAM else _raced(workloads.WORKLOADS[name])
    counter, steps = GlobalStep(), chosen.steps_per_call
    times: list[tuple[float, float]] = []
    for pair in range(pairs):
        order = (True, False) if pair % 2 else (False, True)
        traced = {each: _traced(chosen, counter, checked=each) for each in order}
        for turn in range(rounds):
            order = (True, False) if turn % 2 else (False, True)
            found = {each: _milliseconds(traced[each], steps) for each in order}
            times.append((found[True], found[False]))
    return _row(name, chosen.compile, times)


def run(workload_names: Sequence[str], *, quick: bool, rounds: int | None = None) -> dict[str, Any]:
    """Measures each workload as `--compile=auto` runs it; what goes into the JSON file.

    Args:
      workload_names: keys of `workloads.WORKLOADS`, or `PROGRAM`.
      quick: fewer pairs of loops and rounds.
      rounds: of each pair of loops; None for the usual number.
    """
    pairs = QUICK_PAIRS if quick else PAIRS
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    rows = [_measured(name, pairs, rounds) for name in workload_names]
    return {"machine": machine.describe(), "versions": machine.versions(), "rows": rows}
