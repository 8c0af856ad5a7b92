"""The parameters of SCALING.md's cost model, measured here, and the model checked with them.

    python -m experiments.benchmark.scaling [--rounds=3]

Each round starts a process for one replica, two and four virtual CPUs, and two worker processes on
loopback, in turn. One replica gives the step's fixed and per-example time; the others give the
all-reduce's latency and time per byte, and the whole step at the same global batch, which is
compared with what the model says. Each number is the shortest of 20 calls in a process, then the
median over the rounds, with the lowest and highest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmark import machine
from experiments.entry.significant import significant

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
    import kernels
    import loop
    from experiments.training import models
    from loop.compiled.compiled_loop import CompiledLoop
    from loop.global_step import GlobalStep
    from loop.precision.policy import as_precision

    rng = np.random.default_rng(0)
    data = {
        "image": rng.normal(0.3, 1.0, [1024, 28, 28, 1]).astype(np.float32),
        "label": rng.integers(0, 10, 1024).astype(np.int32),
    }
    with replicas.scope():
        model = models.make(
            name,
            (28, 28, 1),
            10,
            dropout=0.1,
            seed=0,
            precision=as_precision("float32"),
            synchronized=False,
        )
        step = loop.GradientStep(
            lambda batch: kernels.softmax_cross_entropy(
                batch["label"], model(batch["image"], training=True)
            ),
            model.trainable_variables,
            loop.optimizers.Adam(1e-3),
            clip=kernels.ClipByGlobalNorm(1.0),
        )
        counter = GlobalStep()
    compiled = CompiledLoop(
        step,
        loop.feeds.Arrays(data, batch_size=batch),
        mode="graph",
        steps_per_call=4,
        global_step=counter,
        replicas=replicas,
    )

    def call() -> int:
        compiled.run(compiled.prepare(int(counter), 4), 4)
        return 4

    size = sum(int(np.prod(v.shape)) * 4 for v in model.trainable_variables)
    milliseconds, busy = _milliseconds(call)
    return {f"{name} {batch}": milliseconds, f"{name} busy": busy, f"{name} bytes": size}


def _reduce_milliseconds(replicas: Any, size: int) -> float:
    """The time of one all-reduce of `size` bytes of float32, of many in one call."""
    import tensorflow as tf

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

    def call() -> int:
        compiled(shares).numpy()
        return 8

    return _milliseconds(call)[0]


def _measure_one(count: int) -> None:
    """One process's measurements, as a line of JSON."""
    from loop import distribute

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if count == 0:
        replicas = distribute.multi_worker()
    else:
        kind = "single" if count == 1 else "mirrored"
        replicas = distribute.make(kind, virtual_devices=0 if count == 1 else count)
    found: Values = {}
    for name in _MODELS:
        for batch in _BATCHES if count == 1 else _BATCHES[:1]:
            found = {**_step(replicas, name, batch), **found}  # of the largest batch stays
    if count != 1:
        for size in _REDUCED_BYTES:
            found[f"reduce {size}"] = _reduce_milliseconds(replicas, size)
    if replicas.is_chief:
        print("measured " + json.dumps(found), flush=True)


def _in_a_process(count: int) -> Values:
    command = [sys.executable, "-m", "experiments.benchmark.scaling", f"--measure={count}"]
    if count == 0:
        command = [sys.executable, "-m", "experiments.launch", "--workers=2", "--", *command]
    done = subprocess.run(
        command,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    for line in done.stdout.splitlines():
        if "measured {" in line:
            found: Values = json.loads(line.split("measured ", 1)[1])
            return found
    raise RuntimeError(f"scaling: {command} measured nothing:\n{done.stdout}{done.stderr}")


def _line(name: str, values: list[float]) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{name:34} {significant(middle):>9}  [{significant(low)}, {significant(high)}]"


def _fit_step(one: Values, name: str) -> tuple[float, float]:
    """A step's fixed milliseconds and those of an example, by least squares over the batches."""
    slope, fixed = np.polyfit(_BATCHES, [one[f"{name} {batch}"] for batch in _BATCHES], 1)
    return float(fixed), float(slope)


def _fit_reduce(several: Values) -> tuple[float, float]:
    """An all-reduce's latency, of its smallest size, and milliseconds a MiB, of its largest."""
    small, large = several[f"reduce {_REDUCED_BYTES[0]}"], several[f"reduce {_REDUCED_BYTES[-1]}"]
    return small, (large - small) / (_REDUCED_BYTES[-1] - _REDUCED_BYTES[0]) * 2**20


def _predicted(one: Values, several: Values, name: str, count: int, cores: int) -> float:
    """The step at the same global batch on replicas that share the cores of one machine.

    Each has the fixed part to itself, all share the examples, and one replica keeps only some of
    the cores busy.
    """
    fixed, slope = _fit_step(one, name)
    latency, per_mebibyte = _fit_reduce(several)
    busy = one[f"{name} busy"]
    work = (count * max(fixed, 0.0) + _BATCHES[0] * slope) * busy  # core-milliseconds
    reduction = latency + per_mebibyte * several[f"{name} bytes"] / 2**20
    return work / min(float(cores), count * busy) + reduction


def _report(rounds: list[dict[str, Values]]) -> None:
    described = machine.describe()
    cores = int(str(described["cores"]))
    print(f"{described['cpu']}, {cores} cores, {described['date']}, {len(rounds)} rounds, ms")
    for name in _MODELS:
        fits = [_fit_step(found["1 replica"], name) for found in rounds]
        print(_line(f"{name}: fixed", [fixed for fixed, _ in fits]))
        print(_line(f"{name}: an example", [slope for _, slope in fits]))
        print(
            _line(f"{name}: busy cores", [found["1 replica"][f"{name} busy"] for found in rounds])
        )
        print(f"{name}: gradients, bytes".ljust(34), rounds[0]["1 replica"][f"{name} bytes"])
    for kind in list(_KINDS)[1:]:
        fits = [_fit_reduce(found[kind]) for found in rounds]
        print(_line(f"{kind}: all-reduce latency", [latency for latency, _ in fits]))
        print(_line(f"{kind}: all-reduce a MiB", [slope for _, slope in fits]))
    for name in _MODELS:
        step = f"{name} {_BATCHES[0]}"
        print(_line(f"{step}, 1 replica", [found["1 replica"][step] for found in rounds]))
        for kind, count in list(_KINDS.items())[1:]:
            print(_line(f"{step}, {kind}", [found[kind][step] for found in rounds]))
            ratios = [
                _predicted(found["1 replica"], found[kind], name, count or 2, cores)
                / found[kind][step]
                for found in rounds
            ]
            print(_line("  predicted / measured", ratios))


def main() -> None:
    """Measures in turn, then reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        _measure_one(arguments.measure)
        return
    _report(
        [
            {kind: _in_a_process(count) for kind, count in _KINDS.items()}
            for _ in range(arguments.rounds)
        ]
    )


if __name__ == "__main__":
    main()
