"""Times kernels side by side with what they replace, on both targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging

from experiments.benchmark import augment_race, kernel_cases, machine, timing, update_race
from experiments.benchmark.kernel_cases import Built, Case, Compiler, Direction, Form
from experiments.benchmark.kernel_rows import Measured, Row
from kernels import target

LOOP_STEPS = 2
# A form in the loop is trained at a rate that changes nothing but keeps every turn its own.
_RATE = 1e-6


def _evaluated(form: Form, built: Built, direction: Direction, inputs: list[Any]) -> list[Any]:
    """The output, or the gradients of it with respect to inputs and variables."""
    if direction == "forward":
        return [form.call(*inputs)]
    sources = [*inputs[: built.differentiable], *form.variables]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(sources)
        y = form.call(*inputs)
    # An uneven upstream gradient, so that no compiler can simplify it away.
    upstream = tf.cast(tf.reshape(tf.range(tf.size(y)) % 7, tf.shape(y)), y.dtype)
    return list(tape.gradient(y, sources, output_gradients=upstream))


def _looped(form: Form, built: Built, direction: Direction, inputs: list[Any]) -> list[Any]:
    """The form some times in one loop; each turn's inputs depend on the turn before."""
    count = built.differentiable

    def body(i: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
        results = _evaluated(form, built, direction, [*state, *inputs[count:]])
        if direction == "forward":
            change = tf.cast(_RATE, state[0].dtype) * tf.reduce_max(results[0])
            return (i + 1, *(value + change for value in state))
        return (
            i + 1,
            *(v - tf.cast(_RATE, v.dtype) * g for v, g in zip(state, results, strict=False)),
        )

    _, *state = tf.while_loop(
        lambda i, *_: i < LOOP_STEPS, body, (tf.constant(0), *inputs[:count]), parallel_iterations=1
    )
    return list(state)


def compiled(
    form: Form, built: Built, direction: Direction, compiler: Compiler, *, in_loop: bool
) -> Callable[[], Any]:
    """A form compiled for a target, as a function that waits for its smallest result."""
    evaluate = _looped if in_loop and compiler == "xla" else _evaluated

    def call(*inputs: Any) -> list[Any]:
        with target.tracing_for(compiler):
            return evaluate(form, built, direction, list(inputs))

    function = tf.function(call, jit_compile=compiler == "xla" or None, autograph=False)

    def run() -> Any:
        results = function(*built.inputs)
        return min(results, key=lambda t: int(tf.size(t))).numpy()

    run()
    return run


def measure(
    case: Case, dtype: tf.DType, compiler: Compiler, direction: Direction, *, rounds: int, ms: float
) -> Measured:
    """Compiles every form of a case and times them in interleaved rounds.

    Args:
      case: what.
      dtype: of its inputs.
      compiler: the target.
      direction: forward, or both passes.
      rounds: rounds.
      ms: about how long a form runs in a round, milliseconds.
    """
    built = case.build(case.shape, dtype)
    forms = {"ours": built.ours, **built.references}
    in_loop = case.in_loop and built.differentiable > 0
    runs = {
        name: compiled(form, built, direction, compiler, in_loop=in_loop)
        for name, form in forms.items()
        if compiler in form.compilers
    }
    measures = {
        name: timing.per_call(run, timing.calls_for(run, ms / 1e3)) for name, run in runs.items()
    }
    milliseconds = timing.interleave(measures, rounds)
    if in_loop and compiler == "xla":
        milliseconds = {n: [m / LOOP_STEPS for m in ms] for n, ms in milliseconds.items()}
    where = f"{compiler}, in a loop" if in_loop and compiler == "xla" else compiler
    kernel = f"{case.kernel} {direction}"
    return Measured(kernel, case.shape, dtype.name, where, milliseconds)


def _print(rows: list[Row]) -> None:
    for row in rows:
        print(
            f"{row['kernel']:38} {row['shape']!s:20} {row['dtype']:8} {row['target']:14}"
            f" {row['ours_ms']:9.3f} {row['reference_ms']:9.3f} {row['ratio']:6.2f}"
            f"  {row['reference']}",
            flush=True,
        )


def run(*, quick: bool, rounds: int) -> dict[str, Any]:
    """All cases; what goes into the JSON file.

    Args:
      quick: fewer kernels, both passes together, float32.
      rounds: rounds to interleave.
    """
    rows: list[Row] = []
    missing: list[str] = []
    ms = 10.0 if quick else 100.0

    def add(new: list[Row]) -> None:
        rows.extend(new)
        _print(new)

    for case in kernel_cases.CASES:
        if quick and not case.quick:
            continue
        for dtype in case.dtypes[:1] if quick else case.dtypes:
            for direction in case.directions[-1:] if quick else case.directions:
                for compiler in kernel_cases.COMPILERS:
                    logging.debug("%s %s %s", case.kernel, compiler, direction)
                    add(measure(case, dtype, compiler, direction, rounds=rounds, ms=ms).rows())
    for measured in augment_race.run(quick=quick, rounds=rounds, ms=ms, missing=missing):
        add(measured.rows())
    for measured in update_race.run(quick=quick, rounds=rounds, ms=ms):
        add(measured.rows())
    for line in missing:
        print(f"missing: {line}")
    return {
        "machine": machine.describe(),
        "versions": machine.versions(),
        "rounds": rounds,
        "rows": rows,
        "missing": missing,
    }
