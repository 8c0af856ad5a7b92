"""Kernels side by side with what they replace, on both targets."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from experiments.benchmark import timing
from experiments.benchmark.measurement import Measurement, Options, Result, Row
from experiments.benchmark.measurements import augmentation_case, kernel_cases, update_case
from experiments.benchmark.measurements.kernel_cases import Built, Case, Compiler, Direction, Form
from kernels import target

LOOP_STEPS = 2
# A form in the loop is trained at a rate that changes nothing but keeps every turn its own.
_RATE = 1e-6


def evaluated(form: Form, built: Built, direction: Direction, inputs: list[Any]) -> list[Any]:
    """The output, or the gradients of it with respect to inputs and variables."""
    if direction != "forward+backward":
        return [form.call(*inputs)]
    sources = [*inputs[: built.differentiable], *form.variables]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(sources)
        y = form.call(*inputs)
    # An uneven upstream gradient, so that no compiler can simplify it away.
    upstream = tf.cast(tf.reshape(tf.range(tf.size(y)) % 7, tf.shape(y)), y.dtype)
    return list(tape.gradient(y, sources, output_gradients=upstream))


def looped(form: Form, built: Built, direction: Direction, inputs: list[Any]) -> list[Any]:
    """The form some times in one loop; each turn's inputs depend on the turn before."""
    count = built.differentiable

    def body(i: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
        results = evaluated(form, built, direction, [*state, *inputs[count:]])
        if direction == "forward":
            results = [-tf.reduce_max(results[0])] * count
        pairs = zip(state, results, strict=False)
        return (i + 1, *(v - tf.cast(_RATE, v.dtype) * change for v, change in pairs))

    start = (tf.constant(0), *inputs[:count])
    return list(tf.while_loop(lambda i, *_: i < LOOP_STEPS, body, start, parallel_iterations=1)[1:])


def compiled(
    form: Form, built: Built, direction: Direction, compiler: Compiler, *, in_loop: bool
) -> Callable[[], Any]:
    """A form compiled for a target, as a function that waits for its smallest result."""
    if form.runs_as == "host":
        return lambda: form.call(*built.inputs)
    runs_as = form.runs_as or compiler
    evaluate = looped if in_loop else evaluated

    def call(*inputs: Any) -> list[Any]:
        with target.tracing_for(runs_as):
            return evaluate(form, built, direction, list(inputs))

    function = tf.function(call, jit_compile=runs_as == "xla" or None, autograph=False)
    return lambda: min(function(*built.inputs), key=lambda t: int(tf.size(t))).numpy()


def measure(
    case: Case, built: Built, compiler: Compiler, direction: Direction, options: Options
) -> Iterator[Row]:
    """Compiles every form of a case and times them; a row for each reference."""
    in_loop = case.in_loop and built.differentiable > 0 and compiler == "xla"
    turns, measures = LOOP_STEPS if in_loop else case.turns, {}
    for name, form in {"ours": built.ours, **built.references}.items():
        run = compiled(form, built, direction, compiler, in_loop=in_loop)
        run()
        measures[name] = timing.filling(run, options.seconds)
    measured = timing.interleave(measures, options.rounds)
    times = {name: [ms / turns for ms in each] for name, each in measured.items()}
    for name in built.references:
        yield {
            "kernel": f"{case.kernel} {direction}".rstrip(),
            "shape": list(case.shape),
            "dtype": case.dtypes[0].name,
            "target": f"{compiler}, in a loop" if in_loop else compiler,
            **timing.spread("ours_ms", times["ours"]),
            "reference": name,
            **timing.spread("reference_ms", times[name]),
            "ratio": timing.median_ratio(times["ours"], times[name]),
        }


def quick(case: Case) -> Case:
    """As --quick has it: float32, both passes together, and a smaller shape where it names one."""
    shape = case.shape if isinstance(case.quick, bool) else case.quick
    return case._replace(shape=shape, dtypes=case.dtypes[:1], directions=case.directions[-1:])


def run(options: Options) -> Iterator[Result]:
    """All cases; a quick run has fewer."""
    cases = (*kernel_cases.CASES, *augmentation_case.CASES, *update_case.CASES)
    for case in [quick(case) for case in cases if case.quick] if options.quick else cases:
        for dtype in case.dtypes:
            one = case._replace(dtypes=(dtype,))
            built = one.build(one.shape, dtype)
            yield {"missing": list(built.missing)}
            for direction, compiler in itertools.product(one.directions, one.compilers):
                yield {"rows": list(measure(one, built, compiler, direction, options))}


MEASUREMENT = Measurement(run, seconds=(0.1, 0.01))
