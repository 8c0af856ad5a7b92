"""The parameters of docs/scaling.md's cost model, measured here, and the model checked with them.

    python -m experiments.benchmark.scaling [--rounds=3] [--json=FILE] [--markdown=FILE]

It is `python -m experiments.benchmark scaling`; its results go to bench-scaling.json by default.

Each round starts a process for one replica, two and four virtual CPUs, and two worker processes on
loopback, in turn. One replica gives the step's fixed and per-example time; the others give the
all-reduce's latency and time per byte, and the whole step at the same global batch, which is
compared with what the model says. Each number is the shortest of 20 calls in a process, then the
median over the rounds, with the lowest and highest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

import kernels
import loop
from experiments.benchmark import machine, timing
from experiments.benchmark.measurement import Measurement, Options, Result, Row
from experiments.entry.run_main import run_main
from experiments.training import models
from loop import distribute
from loop.compiled.compiled_loop import CompiledLoop
from loop.precision.policy import as_precision

_KINDS = {"1 replica": 1, "2 replicas": 2, "4 replicas": 4, "2 workers": 0}
_MODELS = ("cnn", "mlp")
_BATCHES = (128, 64, 32)
_REDUCED_BYTES = (2**12, 2**18, 2**20, 2**22)
_CALLS = 20
Values = dict[str, float]


def _milliseconds(call: Callable[[], int]) -> tuple[float, float]:
    """The shortest time of what one call counts, and the cores that were busy in it.

    The shortest, since other processes only ever add to it. The number of calls is fixed, since
    several workers must make the same ones.
    """
    call()
    times = []
    for _ in range(_CALLS):
        wall, busy = time.perf_counter(), time.process_time()
        count = call()
        wall, busy = time.perf_counter() - wall, time.process_time() - busy
        times.append((wall * 1e3 / count, busy / wall))
    return min(times)


def _step(replicas: Any, name: str, batch: int) -> Values:
    """The time of a training step, the cores it keeps busy, and the bytes of the gradients."""
    rng = np.random.default_rng(0)
    images = rng.normal(0.3, 1.0, [1024, 28, 28, 1]).astype(np.float32)
    labels = rng.integers(0, 10, 1024).astype(np.int32)
    feed = loop.feeds.Arrays({"image": images, "label": labels}, batch_size=batch)
    plain = as_precision("float32")
    with replicas.scope():
        model = models.make(
            name, (28, 28, 1), 10, dropout=0.1, seed=0, precision=plain, synchronized=False
        )

        def loss_fn(batch: Any) -> Any:
            return kernels.softmax_cross_entropy(
                batch["label"], model(batch["image"], training=True)
            )

        optimizer, clip = loop.optimizers.Adam(1e-3), kernels.ClipByGlobalNorm(1.0)
        step = loop.GradientStep(loss_fn, model.trainable_variables, optimizer, clip=clip)
        counter = loop.GlobalStep()
    compiled = CompiledLoop(
        step, feed, mode="graph", steps_per_call=4, global_step=counter, replicas=replicas
    )

    def call() -> int:
        compiled.run(compiled.prepare(int(counter), 4), 4)
        return 4

    size = sum(int(np.prod(v.shape)) * 4 for v in model.trainable_variables)
    milliseconds, busy = _milliseconds(call)
    return {f"{name} {batch}": milliseconds, f"{name} busy": busy, f"{name} bytes": size}


def _reduce_milliseconds(replicas: Any, size: int) -> float:
    """The time of one all-reduce of `size` bytes of float32, of many in one call."""
    shares = replicas.per_replica(lambda replica: tf.fill([size // 4], float(replica)))

    def reduce_all(shares: Any) -> Any:
        def reduced(index: Any, carry: Any) -> Any:
            # Each waits for the one before.
            total = replicas.run(
                lambda share, carry: replicas.all_reduce_sum([share + carry])[0], shares, carry
            )
            return index + 1, replicas.first(total)[0] * 1e-9

        start = (tf.constant(0), tf.constant(0.0))
        return tf.while_loop(lambda index, _: index < 8, reduced, start, parallel_iterations=1)[1]

    compiled = tf.function(reduce_all, autograph=False)
    return _milliseconds(lambda: compiled(shares).numpy() is not None and 8)[0]


def _measure_one(count: int) -> None:
    """One process's measurements, as a line of JSON."""
    if count == 0:
        replicas = distribute.multi_worker()
    else:
        kind = "single" if count == 1 else "mirrored"
        replicas = distribute.make(kind, virtual_devices=0 if count == 1 else count)
    found: Values = {}
    for name in _MODELS:
        for batch in _BATCHES if count == 1 else _BATCHES[:1]:
            found = {**_step(replicas, name, batch), **found}  # of the largest batch stays
    for size in _REDUCED_BYTES if count != 1 else ():
        found[f"reduce {size}"] = _reduce_milliseconds(replicas, size)
    if replicas.is_chief:
        print("measured " + json.dumps(found), flush=True)


def _in_a_process(count: int) -> Values:
    command = [sys.executable, "-m", "experiments.benchmark.scaling", f"--measure={count}"]
    if count == 0:
        command = [sys.executable, "-m", "experiments.launch", "--workers=2", "--", *command]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    for line in done.stdout.splitlines():
        if "measured {" in line:
            found: Values = json.loads(line.split("measured ", 1)[1])
            return found
    raise RuntimeError(f"scaling: {command} measured nothing:\n{done.stdout}{done.stderr}")


def fit_step(one: Values, name: str) -> tuple[float, float]:
    """A step's fixed milliseconds and those of an example, by least squares over the batches."""
    slope, fixed = np.polyfit(_BATCHES, [one[f"{name} {batch}"] for batch in _BATCHES], 1)
    return float(fixed), float(slope)


def fit_reduce(several: Values) -> tuple[float, float]:
    """An all-reduce's latency, of its smallest size, and milliseconds a MiB, of its largest."""
    small, large = several[f"reduce {_REDUCED_BYTES[0]}"], several[f"reduce {_REDUCED_BYTES[-1]}"]
    return small, (large - small) / (_REDUCED_BYTES[-1] - _REDUCED_BYTES[0]) * 2**20


def predicted(one: Values, several: Values, name: str, count: int, cores: int) -> float:
    """The step at the same global batch on replicas that share the cores of one machine.

    Each has the fixed part to itself, all share the examples, and one replica keeps only some of
    the cores busy.
    """
    fixed, slope = fit_step(one, name)
    latency, per_mebibyte = fit_reduce(several)
    busy = one[f"{name} busy"]
    work = (count * max(fixed, 0.0) + _BATCHES[0] * slope) * busy  # core-milliseconds
    reduction = latency + per_mebibyte * several[f"{name} bytes"] / 2**20
    return work / min(float(cores), count * busy) + reduction


def rows(rounds: list[dict[str, Values]], cores: int) -> Iterator[Row]:
    """A row for each parameter and for each comparison."""

    def row(quantity: str, values: list[float]) -> Row:
        return {"quantity": quantity, **timing.spread("value", values)}

    ones = [found["1 replica"] for found in rounds]
    several = {kind: count or 2 for kind, count in _KINDS.items() if count != 1}
    for name in _MODELS:
        fits = [fit_step(one, name) for one in ones]
        yield row(f"{name}: fixed, ms", [fixed for fixed, _ in fits])
        yield row(f"{name}: an example, ms", [slope for _, slope in fits])
        yield row(f"{name}: busy cores", [one[f"{name} busy"] for one in ones])
        yield row(f"{name}: gradients, bytes", [one[f"{name} bytes"] for one in ones])
    for kind in several:
        fits = [fit_reduce(found[kind]) for found in rounds]
        yield row(f"{kind}: all-reduce latency, ms", [latency for latency, _ in fits])
        yield row(f"{kind}: all-reduce a MiB, ms", [slope for _, slope in fits])
    for name in _MODELS:
        step = f"{name} {_BATCHES[0]}"
        yield row(f"{step}, 1 replica, ms", [one[step] for one in ones])
        for kind, count in several.items():
            measured = [found[kind][step] for found in rounds]
            yield row(f"{step}, {kind}, ms", measured)
            model = [predicted(r["1 replica"], r[kind], name, count, cores) for r in rounds]
            ratios = [a / b for a, b in zip(model, measured, strict=True)]
            yield row(f"{step}, {kind}: predicted / measured", ratios)


def run(options: Options) -> Iterator[Result]:
    """Measures in turn, then compares."""
    rounds = [
        {kind: _in_a_process(count) for kind, count in _KINDS.items()}
        for _ in range(options.rounds)
    ]
    yield {"rows": list(rows(rounds, int(str(machine.describe()["cores"]))))}


MEASUREMENT = Measurement(run, rounds=(3, 1), least_rounds=1)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].startswith("--measure="):
        _measure_one(int(sys.argv[1].partition("=")[2]))
    else:
        # It defines flags, which a command that imports this file has defined already.
        from experiments.benchmark import __main__ as benchmark

        run_main(
            benchmark.main, [sys.argv[0], "scaling", "--json=bench-scaling.json", *sys.argv[1:]]
        )
