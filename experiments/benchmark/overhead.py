"""What the framework itself costs a call: ours minus a hand-written function of the same maths.

The step does next to nothing: it adds a batch's mean to every variable. So the difference is the
framework's: its Python, its arguments, its table of rows, its finite check. `loop` is the compiled
loop by itself, each call's input prepared in line; `trainer` is all that a user's run does a call
(the next input prepared in a thread, the meter, the boundaries).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import tensorflow as tf

import loop
from experiments.benchmark import machine, timing
from loop import distribute, feeds
from loop.compiled.compiled_loop import CompiledLoop

CALL_LENGTHS = (1, 8, 64)
VARIABLES = (8, 1000)
EXAMPLES, FEATURES, BATCH = 256, 8, 8
GOAL_US = 100.0
"""The most that the framework may cost a call of one step."""
Compiler = Literal["graph", "xla"]
COMPILERS: tuple[Compiler, ...] = ("graph", "xla")
Measures = dict[str, Callable[[], float]]


def _variables(count: int) -> list[tf.Variable]:
    return [tf.Variable(tf.zeros([]), name=f"v{i}") for i in range(count)]


def _data() -> Any:
    return np.random.default_rng(0).standard_normal((EXAMPLES, FEATURES)).astype(np.float32)


def _add(variables: list[tf.Variable], x: tf.Tensor) -> tf.Tensor:
    mean = tf.reduce_mean(x)
    for variable in variables:
        variable.assign_add(mean)
    return mean


def _feed() -> feeds.Arrays:
    return feeds.Arrays({"x": _data()}, batch_size=BATCH, shuffle=False)


def _loop(count: int, steps: int, compiler: Compiler) -> Callable[[], Any]:
    """A call of the compiled loop: input prepared, run, rows on the host."""
    variables = _variables(count)
    compiled = CompiledLoop(
        lambda batch: {"loss": _add(variables, batch["x"])},
        _feed(),
        mode=compiler,
        steps_per_call=steps,
        global_step=loop.GlobalStep(),
        replicas=distribute.single(),
    )
    step = 0  # a trainer too counts on the host

    def call() -> None:
        nonlocal step
        compiled.run(compiled.prepare(step, steps), steps)
        step += steps

    return call


def _trainer(count: int, steps: int, compiler: Compiler) -> Callable[[int], None]:
    """Calls of a trainer without a directory: (how many) -> None."""
    variables = _variables(count)
    trainer = loop.Trainer(
        step=lambda batch: {"loss": _add(variables, batch["x"])},
        feed=_feed(),
        state={f"v{i}": variable for i, variable in enumerate(variables)},
        compile=compiler,
        steps_per_call=steps,
    )
    step = 0

    def train(calls: int) -> None:
        nonlocal step
        step += calls * steps
        trainer.train(until=step)

    return train


def _bare(count: int, steps: int, compiler: Compiler) -> Callable[[], Any]:
    """The same steps in one function; the losses on the host."""
    variables, data = _variables(count), tf.constant(_data())
    counter = tf.Variable(0, dtype=tf.int64)

    def call(data: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        def body(i: tf.Tensor, losses: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            start = tf.cast(counter, tf.int32) * BATCH % EXAMPLES
            loss = _add(variables, tf.gather(data, start + tf.range(BATCH)))
            counter.assign_add(1)
            return i + 1, losses.write(i, loss)

        losses = tf.TensorArray(tf.float32, size=steps, element_shape=[])
        turns = (tf.constant(0), losses)
        _, losses = tf.while_loop(lambda i, _: i < number, body, turns, parallel_iterations=1)
        return losses.stack()

    function = tf.function(call, jit_compile=compiler == "xla" or None, autograph=False)
    return lambda: function(data, tf.constant(steps)).numpy()


def _measures(count: int, steps: int, compiler: Compiler, seconds: float) -> Measures:
    """Form -> milliseconds a call in a round of about `seconds`; compiled before."""
    calls = {"loop": _loop(count, steps, compiler), "bare": _bare(count, steps, compiler)}
    for call in calls.values():
        call()
    measures = {
        name: timing.per_call(call, timing.calls_for(call, seconds)) for name, call in calls.items()
    }
    train = _trainer(count, steps, compiler)
    train(2)  # the first call of a trainer is of one step, to be timed
    # One `train` of as many calls as the loop's: what it does once is spread over them.
    number = timing.calls_for(calls["loop"], seconds)
    once = timing.per_call(lambda: train(number), 1)
    return {**measures, "trainer": lambda: once() / number}


def _row(about: dict[str, Any], ours: list[float], bare: list[float]) -> dict[str, Any]:
    differences = [(a - b) * 1e3 for a, b in zip(ours, bare, strict=True)]
    framework = timing.summarize(differences)
    return {
        **about,
        "ours_us_per_call": timing.summarize(ours).median * 1e3,
        "bare_us_per_call": timing.summarize(bare).median * 1e3,
        "framework_us": framework.median,
        "framework_us_min": framework.minimum,
        "framework_us_max": framework.maximum,
        "framework_us_per_step": framework.median / about["steps_per_call"],
        "goal_us": GOAL_US if about["steps_per_call"] == 1 else None,
        "ratio": timing.median_ratio(ours, bare),
    }


def run(*, quick: bool, rounds: int) -> dict[str, Any]:
    """Times a call at each length and number of variables; what goes into the JSON file.

    Args:
      quick: 8 variables alone.
      rounds: rounds to interleave.
    """
    rows = []
    for count in VARIABLES[:1] if quick else VARIABLES:
        for compiler in COMPILERS:
            for steps in CALL_LENGTHS:
                measures = _measures(count, steps, compiler, 0.05 if quick else 0.3)
                measured = timing.interleave(measures, rounds)
                about = {"variables": count, "target": compiler, "steps_per_call": steps}
                rows += [
                    _row({**about, "form": form}, measured[form], measured["bare"])
                    for form in ("loop", "trainer")
                ]
    result: dict[str, Any] = {"machine": machine.describe(), "versions": machine.versions()}
    return {**result, "rounds": rounds, "rows": rows}
