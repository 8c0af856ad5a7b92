"""Whether streaming needs memory for its data: an epoch of data larger than the memory allowed.

What TensorFlow and a small model need by themselves is measured first; the limit lies a little
above it, and the data is `RATIO` times the limit. Streamed records must train through it, with a
resident set that does not grow; the same data as arrays must die of the limit, and a little of it
as arrays must not, or the limit would prove nothing. Each epoch has a process of its own, which
runs this file and prints one JSON object:

    python -m experiments.benchmark.measurements.memory FOLDER records|arrays LIMIT_BYTES

The limit is RLIMIT_DATA: all memory of the process that is private and written to, the heap, the
threads' stacks and every large array among it; not what the system keeps of files in its own cache.
"""

from __future__ import annotations

import json
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

import kernels
import loop
from experiments.benchmark import install_contenders, machine
from experiments.benchmark.measurement import Measurement, Options, Result, Row
from experiments.benchmark.process import last_line
from experiments.entry.errors import InputError
from loop import feeds, layers, optimizers

ROOM_BYTES = 128 * 2**20
"""Between what the process needs by itself and its limit: two calls' batches, and their copies."""

RATIO, QUICK_RATIO = 4.0, 1.5
BATCH, STEPS_PER_CALL, SAMPLES, CLASSES = 32, 4, 10, 10
_SIZE, _POOLED = 128, 8
_IMAGE_SHAPE = (_SIZE, _SIZE, 3)
_RECORD_BYTES = 8 + _SIZE * _SIZE * 3
_SHARD_EXAMPLES = 1024
_LITTLE = 256
_PATIENCE_SECONDS = 1800.0


def _write(folder: pathlib.Path, examples: int) -> None:
    """Writes shards of examples that each begin with their number; int64, then uint8 pixels."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, _RECORD_BYTES - 8, np.uint8)
    for first in range(0, examples, _SHARD_EXAMPLES):
        with tf.io.TFRecordWriter(str(folder / f"{first:09d}.tfrecord")) as writer:
            for number in range(first, min(first + _SHARD_EXAMPLES, examples)):
                writer.write(np.int64(number).tobytes() + np.roll(pixels, number).tobytes())


def _parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    content = tf.io.decode_raw(serialized, tf.uint8, fixed_length=_RECORD_BYTES)
    number = tf.bitcast(content[:, :8], tf.int64)
    return {"number": number, "image": tf.reshape(content[:, 8:], [-1, *_IMAGE_SHAPE])}


def _feed(folder: pathlib.Path, name: str) -> feeds.Arrays | feeds.Records:
    """The examples streamed, or all in memory as arrays."""
    paths = sorted(folder.glob("*.tfrecord"))
    if name == "records":
        return feeds.Records(paths, _parse, batch_size=BATCH)
    files = feeds.RecordFiles(paths)
    numbers = np.empty(files.size, np.int64)
    images = np.empty([files.size, *_IMAGE_SHAPE], np.uint8)
    for first in range(0, files.size, BATCH):
        some = np.arange(first, min(first + BATCH, files.size))
        parsed = _parse(tf.constant(files.read(some)))
        numbers[some], images[some] = parsed["number"].numpy(), parsed["image"].numpy()
    return feeds.Arrays({"number": numbers, "image": images}, batch_size=BATCH)


def _status(name: str) -> int:
    """A field of /proc/self/status, in bytes."""
    return int((machine.first_field("/proc/self/status", name) or "0").split()[0]) * 1024


def _epoch(folder: pathlib.Path, name: str) -> dict[str, Any]:
    """Trains a small model of averaged pixels on every example once; what was seen."""
    feed = _feed(folder, name)
    steps = feed.size // BATCH
    inputs = (_SIZE // _POOLED) ** 2 * 3
    model = layers.Dense(inputs, CLASSES, name="dense", seed=0)
    optimizer = optimizers.Momentum(0.01, momentum=0.9)
    samples: list[dict[str, int]] = []
    sums: list[float] = []

    def loss_fn(batch: feeds.Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        pixels = tf.cast(batch["image"], tf.float32) / 255.0
        pooled = tf.nn.avg_pool2d(pixels, _POOLED, _POOLED, "VALID")
        labels = tf.cast(batch["number"] % CLASSES, tf.int32)
        logits = model(tf.reshape(pooled, [-1, inputs]))
        number = tf.cast(batch["number"], tf.float64)
        return kernels.softmax_cross_entropy(labels, logits), {"number": number}

    def sample(_: loop.Trainer) -> None:
        samples.append({field: _status(field) for field in ("VmRSS", "VmData")})

    loop.Trainer(
        step=loop.GradientStep(loss_fn, model.trainable_variables, optimizer),
        feed=feed,
        state={"model": model, "optimizer": optimizer},
        compile="graph",
        steps_per_call=STEPS_PER_CALL,
        actions=[loop.Every(max(1, steps // SAMPLES), sample)],
        writers=[lambda rows: sums.extend((rows["number"] * BATCH).tolist())],
    ).train(until=steps)
    seen = {"examples": steps * BATCH, "number_sum": round(sum(sums))}
    return {**seen, "samples": samples, "VmHWM": _status("VmHWM")}


def _in_a_process(folder: pathlib.Path, feed: str, limit: int) -> dict[str, Any]:
    """What an epoch's process printed; of one that died, its status and last line."""
    module = "experiments.benchmark.measurements.memory"
    done = subprocess.run(
        [sys.executable, "-m", module, str(folder), feed, str(limit)],
        cwd=install_contenders.ROOT,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    if done.returncode == 0:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    return {"died": f"died, status {done.returncode}: {last_line(done.stderr)}"}


def _row(feed: str, data_bytes: int, limit: int, found: dict[str, Any]) -> Row:
    """A row, bytes in MB; growth is that of the resident set from the first tenth on."""
    row: Row = {"feed": feed, "data_mb": data_bytes / 1e6, "limit_mb": limit / 1e6}
    if "died" in found:
        return {**row, "outcome": found["died"]}
    expected = found["examples"] * (found["examples"] - 1) // 2
    resident = [sample["VmRSS"] for sample in found["samples"]]
    return {
        **row,
        "outcome": "trained",
        "each_once": found["number_sum"] == expected,
        "rss_mb": [round(each / 1e6, 1) for each in resident],
        "growth_mb": (max(resident) - resident[0]) / 1e6,
        "peak_rss_mb": found["VmHWM"] / 1e6,
        "data_segment_mb": max(sample["VmData"] for sample in found["samples"]) / 1e6,
    }


def measure(ratio: float) -> Iterator[Result]:
    """Measures with data of `ratio` times the limit.

    Raises:
      InputError: where there is no such limit, or no room for the data.
    """
    if sys.platform != "linux":
        raise InputError(
            "memory", expected="Linux", found=sys.platform, mend="run it on a Linux machine"
        )
    with tempfile.TemporaryDirectory() as scratch:
        little, everything = pathlib.Path(scratch, "little"), pathlib.Path(scratch, "all")
        _write(little, _LITTLE)
        without = _in_a_process(little, "records", resource.RLIM_INFINITY)
        if "died" in without:
            raise RuntimeError(f"memory: an epoch without a limit {without['died']}")
        base = max(sample["VmData"] for sample in without["samples"])
        limit = base + ROOM_BYTES
        yield {"base_bytes": base, "limit_bytes": limit, "ratio": ratio}
        # Whole batches, so that an epoch is a whole number of steps.
        examples = -(-int(ratio * limit) // (BATCH * _RECORD_BYTES)) * BATCH
        check_room(scratch, examples * _RECORD_BYTES)
        _write(everything, examples)
        for name, folder, count in (
            ("records", everything, examples),
            ("arrays", everything, examples),
            ("little arrays", little, _LITTLE),
        ):
            found = _in_a_process(folder, name.split()[-1], limit)
            yield {"rows": [_row(name, count * _RECORD_BYTES, limit, found)]}


def check_room(folder: str, needed: int) -> None:
    """Raises an `InputError` where the folder's disk has too little room."""
    free = shutil.disk_usage(folder).free
    if free < 1.1 * needed:
        raise InputError(
            "memory",
            expected=f"room for {needed / 1e9:.1f} GB in {folder}",
            found=f"{free / 1e9:.1f} GB",
            mend="set TMPDIR to a folder with more",
        )


def run(options: Options) -> Iterator[Result]:
    """Measures once."""
    return measure(QUICK_RATIO if options.quick else RATIO)


MEASUREMENT = Measurement(run, rounds=(0, 0))


if __name__ == "__main__":
    limit = int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    print(json.dumps(_epoch(pathlib.Path(sys.argv[1]), sys.argv[2])), flush=True)
