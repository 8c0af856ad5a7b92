"""What the framework itself costs a call: ours minus a hand-written function of the same maths.

The step does next to nothing: it adds a batch's mean to every variable. So the difference is the
framework's: its Python, its arguments, its table of rows, its finite check. `loop` is the compiled
loop by itself, each call's input prepared in line; `trainer` is all that a user's run does a call
(the next input prepared in a thread, the meter, the boundaries).
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import tensorflow as tf

import loop
from experiments.benchmark import timing
from experiments.benchmark.contenders import bare
from experiments.benchmark.measurement import Measurement, Options, Result, Row
from loop import distribute, feeds
from loop.compiled.compiled_loop import CompiledLoop

CALL_LENGTHS = (1, 8, 64)
VARIABLES = (8, 1000)
EXAMPLES, FEATURES, BATCH = 256, 8, 8
GOAL_US = 100.0
"""The most that the framework may cost a call of one step."""
Compiler = Literal["graph", "xla"]
COMPILERS: tuple[Compiler, ...] = ("graph", "xla")


def _variables(count: int) -> list[tf.Variable]:
    return [tf.Variable(tf.zeros([]), name=f"v{i}") for i in range(count)]


def _data() -> Any:
    return np.random.default_rng(0).standard_normal((EXAMPLES, FEATURES)).astype(np.float32)


def _add(variables: list[tf.Variable], x: tf.Tensor) -> tf.Tensor:
    mean = tf.reduce_mean(x)
    for variable in variables:
        variable.assign_add(mean)
    return mean


def _parts(variables: list[tf.Variable]) -> tuple[Any, feeds.Arrays]:
    """Step and feed."""
    feed = feeds.Arrays({"x": _data()}, batch_size=BATCH, shuffle=False)
    return lambda batch: {"loss": _add(variables, batch["x"])}, feed


def _loop(count: int, steps: int, compiler: Compiler) -> Callable[[], object]:
    """A call of the compiled loop: input prepared, run, rows on the host."""
    compiled = CompiledLoop(
        *_parts(_variables(count)),
        mode=compiler,
        steps_per_call=steps,
        global_step=loop.GlobalStep(),
        replicas=distribute.single(),
    )
    starts = itertools.count(0, steps)  # a trainer too counts on the host
    return lambda: compiled.run(compiled.prepare(next(starts), steps), steps)


def _trainer(count: int, steps: int, compiler: Compiler) -> Callable[[int], None]:
    """Calls of a trainer without a directory: (how many) -> None."""
    variables = _variables(count)
    step, feed = _parts(variables)
    state = {f"v{i}": variable for i, variable in enumerate(variables)}
    trainer = loop.Trainer(
        step=step, feed=feed, state=state, compile=compiler, steps_per_call=steps
    )
    return lambda calls: trainer.train(until=int(trainer.global_step) + calls * steps)


def _bare(count: int, steps: int, compiler: Compiler) -> Callable[[], Any]:
    """The same steps in one function; the losses on the host."""
    variables, data = _variables(count), tf.constant(_data())
    counter = tf.Variable(0, dtype=tf.int64)

    def call(data: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        def step() -> tf.Tensor:
            start = tf.cast(counter, tf.int32) * BATCH % EXAMPLES
            loss = _add(variables, tf.gather(data, start + tf.range(BATCH)))
            counter.assign_add(1)
            return loss

        return bare.repeated(step, number, steps)

    function = tf.function(call, jit_compile=compiler == "xla" or None, autograph=False)
    return lambda: function(data, tf.constant(steps)).numpy()


def _times(count: int, steps: int, compiler: Compiler, options: Options) -> timing.Times:
    """Form -> milliseconds a call in each round; compiled before."""
    calls = {"loop": _loop(count, steps, compiler), "bare": _bare(count, steps, compiler)}
    for call in calls.values():
        call()
    train = _trainer(count, steps, compiler)
    train(2)  # the first call of a trainer is of one step, to be timed
    # One `train` of as many calls as the loop's: what it does once is spread over them.
    number = max(1, round(options.seconds * 1e3 / timing.per_call(calls["loop"], 1)()))
    once = timing.per_call(lambda: train(number), 1)
    measures = {name: timing.filling(call, options.seconds) for name, call in calls.items()}
    return timing.interleave({**measures, "trainer": lambda: once() / number}, options.rounds)


def _row(about: dict[str, Any], ours: list[float], bare: list[float]) -> Row:
    differences = [(a - b) * 1e3 for a, b in zip(ours, bare, strict=True)]
    return {
        **about,
        "ours_us_per_call": statistics.median(ours) * 1e3,
        "bare_us_per_call": statistics.median(bare) * 1e3,
        **timing.spread("framework_us", differences),
        "framework_us_per_step": statistics.median(differences) / about["steps_per_call"],
        "goal_us": GOAL_US if about["steps_per_call"] == 1 else None,
        "ratio": timing.median_ratio(ours, bare),
    }


def run(options: Options) -> Iterator[Result]:
    """Times a call at each length and number of variables; a quick run of the first number."""
    variables = VARIABLES[:1] if options.quick else VARIABLES
    for count, compiler, steps in itertools.product(variables, COMPILERS, CALL_LENGTHS):
        times = _times(count, steps, compiler, options)
        about = {"variables": count, "target": compiler, "steps_per_call": steps}
        forms = ("loop", "trainer")
        yield {"rows": [_row({**about, "form": f}, times[f], times["bare"]) for f in forms]}


MEASUREMENT = Measurement(run, seconds=(0.3, 0.05))
