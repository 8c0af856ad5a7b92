"""What the finite check costs a step: the same training with it and without.

Without it every value is called finite while the loop is traced, so that TensorFlow folds away the
check and the branch or selects behind it. Both loops train the same variables on the same data,
call by call in turn, and a ratio is taken of two neighbours: two trainers of one program differ by
more than the check, by where their memory lies. Several pairs of loops are traced, since two traces
of one function may be scheduled differently.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any
from unittest import mock

import tensorflow as tf

from experiments.benchmark import machine, workloads
from experiments.benchmark.peers.tapestep import Tapestep
from loop import distribute
from loop.compile import CompiledLoop
from loop.global_step import GlobalStep

PAIRS, QUICK_PAIRS = 7, 2
ROUNDS, QUICK_ROUNDS = 20, 10
GOAL = 1.01
"""The most that a step with the check may take of one without."""


def _finite(x: tf.Tensor) -> tf.Tensor:
    return tf.fill(x.shape, True)


def _traced(like: Tapestep, steps: int, counter: GlobalStep, *, checked: bool) -> CompiledLoop:
    """A loop over the training of `like`, run once."""
    compiled = CompiledLoop(
        like.step,
        like.feed,
        mode=like.compile,
        steps_per_call=steps,
        global_step=counter,
        replicas=distribute.single(),
    )
    with mock.patch.object(tf.math, "is_finite", tf.math.is_finite if checked else _finite):
        _milliseconds(compiled, steps)
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


def _measured(workload: workloads.Workload, pairs: int, rounds: int) -> dict[str, Any]:
    chosen = Tapestep(workload, 0)  # as a user's run chooses
    counter, steps = GlobalStep(), workload.steps_per_call
    times: list[tuple[float, float]] = []
    for pair in range(pairs):
        order = (True, False) if pair % 2 else (False, True)
        traced = {each: _traced(chosen, steps, counter, checked=each) for each in order}
        for turn in range(rounds):
            order = (True, False) if turn % 2 else (False, True)
            found = {each: _milliseconds(traced[each], steps) for each in order}
            times.append((found[True], found[False]))
    return _row(workload.name, chosen.compile, times)


def run(workload_names: Sequence[str], *, quick: bool, rounds: int | None = None) -> dict[str, Any]:
    """Measures each workload as `--compile=auto` runs it; what goes into the JSON file.

    Args:
      workload_names: keys of `workloads.WORKLOADS`.
      quick: fewer pairs of loops and rounds.
      rounds: of each pair of loops; None for the usual number.
    """
    pairs = QUICK_PAIRS if quick else PAIRS
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    rows = [_measured(workloads.WORKLOADS[name], pairs, rounds) for name in workload_names]
    return {"machine": machine.describe(), "versions": machine.versions(), "rows": rows}
