"""What the loop itself costs a call: ours against one hand-written function of the same maths.

The step does next to nothing: it adds a batch's mean to every variable. So the difference is the
framework's: its Python, its arguments, its table of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import tensorflow as tf

import loop
from experiments.benchmark import machine, timing
from loop import compile as compiling
from loop import distribute, feeds

CALL_LENGTHS = (1, 8, 64)
VARIABLES = (8, 1000)
EXAMPLES, FEATURES, BATCH = 256, 8, 8
Compiler = Literal["graph", "xla"]


def _variables(count: int) -> list[tf.Variable]:
    return [tf.Variable(tf.zeros([]), name=f"v{i}") for i in range(count)]


def _data() -> Any:
    return np.random.default_rng(0).standard_normal((EXAMPLES, FEATURES)).astype(np.float32)


def _add(variables: list[tf.Variable], x: tf.Tensor) -> tf.Tensor:
    mean = tf.reduce_mean(x)
    for variable in variables:
        variable.assign_add(mean)
    return mean


def _ours(count: int, steps: int, compiler: Compiler) -> Callable[[], Any]:
    """A call of the compiled loop: input prepared, run, rows on the host."""
    variables = _variables(count)
    counter = loop.GlobalStep()
    compiled = compiling.CompiledLoop(
        lambda batch: {"loss": _add(variables, batch["x"])},
        feeds.Arrays({"x": _data()}, batch_size=BATCH, shuffle=False),
        mode=compiler,
        steps_per_call=steps,
        global_step=counter,
        replicas=distribute.single(),
    )
    return lambda: compiled.run(compiled.prepare(int(counter), steps), steps)


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


def run(*, quick: bool, rounds: int) -> dict[str, Any]:
    """Times a call at each length and number of variables; what goes into the JSON file.

    Args:
      quick: 8 variables alone.
      rounds: rounds to interleave.
    """
    rows = []
    for count in VARIABLES[:1] if quick else VARIABLES:
        for compiler in ("graph", "xla"):
            for steps in CALL_LENGTHS:
                runs = {
                    "ours": _ours(count, steps, compiler),
                    "bare": _bare(count, steps, compiler),
                }
                for each in runs.values():
                    each()
                seconds = 0.05 if quick else 0.3
                measures = {
                    name: timing.per_call(each, timing.calls_for(each, seconds))
                    for name, each in runs.items()
                }
                measured = timing.interleave(measures, rounds)
                ours, bare = (timing.summarize(measured[name]).median for name in runs)
                row = {
                    "variables": count,
                    "target": compiler,
                    "steps_per_call": steps,
                    "ours_us_per_call": ours * 1e3,
                    "bare_us_per_call": bare * 1e3,
                    "overhead_us_per_call": (ours - bare) * 1e3,
                    "ratio": timing.median_ratio(measured["ours"], measured["bare"]),
                }
                rows.append(row)
                print(
                    f"{count:5} variables {compiler:5} K={steps:3}: ours {ours * 1e3:9.0f} us a"
                    f" call, bare {bare * 1e3:9.0f}, difference {(ours - bare) * 1e3:8.0f}",
                    flush=True,
                )
    result: dict[str, Any] = {"machine": machine.describe(), "versions": machine.versions()}
    return {**result, "rounds": rounds, "rows": rows}
