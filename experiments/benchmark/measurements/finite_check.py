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
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import tensorflow as tf

from experiments import flags
from experiments.benchmark import timing, workloads
from experiments.benchmark.contenders import tapestep
from experiments.benchmark.measurement import Measurement, Options, Result, Row
from experiments.data import datasets
from experiments.training import parts
from loop import distribute
from loop.compiled.compiled_loop import CompiledLoop, Mode
from loop.feeds import Feed
from loop.global_step import GlobalStep
from loop.optimizers import Optimizer

PAIRS, QUICK_PAIRS = 7, 2
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


def training(name: str) -> Training:
    """That of a workload, or of the program."""
    if name != PROGRAM:
        workload = workloads.WORKLOADS[name]
        like = tapestep.Contender(workload, 0)
        return Training(like.step, like.feed, like.mode, workload.steps_per_call)
    settings = flags.parse(["train"])
    data = datasets.load(settings.dataset, settings.data_dir)
    total = settings.total_steps(len(data.train_images))
    made = parts.make(settings, data, distribute.single(), total, pathlib.Path())
    # `--compile=auto` takes the graph for a run of a second.
    return Training(made.step, made.feed, "graph", 64)


def traced(chosen: Training, counter: GlobalStep, *, checked: bool) -> CompiledLoop:
    """A loop over the training, run once."""
    step, feed, mode, steps = chosen
    alone = distribute.single()
    compiled = CompiledLoop(
        step, feed, mode=mode, steps_per_call=steps, global_step=counter, replicas=alone
    )
    with contextlib.nullcontext() if checked else _unchecked():
        _milliseconds(compiled, steps)
    return compiled


def _milliseconds(compiled: CompiledLoop, steps: int) -> float:
    chunk = compiled.prepare(compiled.first_step(), steps)
    return timing.per_call(lambda: compiled.run(chunk, steps), 1)() / steps


def median_bounds(values: Sequence[float]) -> tuple[float, float]:
    """Order statistics that hold the median with 95 % confidence (binomial, by its normal form)."""
    ordered, count = sorted(values), len(values)
    reach = 0.98 * count**0.5
    low = max(0, round(count / 2 - reach) - 1)
    return ordered[low], ordered[count - 1 - low]


def _row(name: str, pairs: int, rounds: int) -> Row:
    chosen, counter = training(name), GlobalStep()
    times: dict[bool, list[float]] = {True: [], False: []}
    for pair in range(pairs):
        order = (True, False) if pair % 2 else (False, True)
        loops = {each: traced(chosen, counter, checked=each) for each in order}
        for turn in range(rounds):
            for each in (True, False) if turn % 2 else (False, True):
                times[each].append(_milliseconds(loops[each], chosen.steps_per_call))
    ratios = [a / b for a, b in zip(times[True], times[False], strict=True)]
    low, high = median_bounds(ratios)
    return {
        "workload": name,
        "compile": chosen.compile,
        "ms": statistics.median(times[True]),
        "ms_unchecked": statistics.median(times[False]),
        "ratio": statistics.median(ratios),
        "ratio_low": low,
        "ratio_high": high,
        "goal": GOAL,
        "n": len(ratios),
    }


def run(options: Options) -> Iterator[Result]:
    """Measures each workload as `--compile=auto` runs it; the rounds are of each pair of loops."""
    for name in options.workloads:
        pairs = QUICK_PAIRS if options.quick else PAIRS
        yield {"rows": [_row(name, pairs, options.rounds)]}


MEASUREMENT = Measurement(
    run, workloads=(*workloads.WORKLOADS, PROGRAM), quick=("tiny", "mlp"), rounds=(20, 10)
)
