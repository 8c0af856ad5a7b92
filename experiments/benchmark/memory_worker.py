"""One epoch under a limit on memory, in a process of its own.

    python -m experiments.benchmark.memory_worker FOLDER --feed=records --limit_bytes=N

The limit is RLIMIT_DATA: all memory of the process that is private and written to, the heap, the
threads' stacks and every large array among it; not what the system keeps of files in its own cache.
Prints one JSON object; a process that asks for more than the limit dies of it.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

import kernels
import loop
from loop import feeds, layers, optimizers
from loop.writers.lines import Writer

IMAGE_SHAPE = (128, 128, 3)
RECORD_BYTES = 8 + 128 * 128 * 3
BATCH = 32
STEPS_PER_CALL = 4
SHARD_EXAMPLES = 1024
CLASSES = 10
SAMPLES = 10
_POOLED = 8


def write(folder: pathlib.Path, examples: range) -> None:
    """Writes shards of examples that each begin with their number; int64, then uint8 pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, RECORD_BYTES - 8, np.uint8)
    for first in range(examples.start, examples.stop, SHARD_EXAMPLES):
        with tf.io.TFRecordWriter(str(folder / f"{first:09d}.tfrecord")) as writer:
            for number in range(first, min(first + SHARD_EXAMPLES, examples.stop)):
                turned = np.roll(pixels, number)
                writer.write(np.int64(number).tobytes() + turned.tobytes())


def _parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    content = tf.io.decode_raw(serialized, tf.uint8, fixed_length=RECORD_BYTES)
    number = tf.bitcast(content[:, :8], tf.int64)
    return {"number": number, "image": tf.reshape(content[:, 8:], [-1, *IMAGE_SHAPE])}


def _in_memory(folder: pathlib.Path) -> dict[str, npt.NDArray[Any]]:
    """All examples as arrays."""
    files = feeds.RecordFiles(sorted(folder.glob("*.tfrecord")))
    arrays: dict[str, npt.NDArray[Any]] = {
        "number": np.empty(files.size, np.int64),
        "image": np.empty([files.size, *IMAGE_SHAPE], np.uint8),
    }
    for first in range(0, files.size, BATCH):
        some = slice(first, min(first + BATCH, files.size))
        parsed = _parse(tf.constant(files.read(np.arange(some.start, some.stop))))
        for name, array in arrays.items():
            array[some] = parsed[name].numpy()
    return arrays


def _feed(folder: pathlib.Path, name: str) -> feeds.Arrays | feeds.Records:
    if name == "arrays":
        return feeds.Arrays(_in_memory(folder), batch_size=BATCH)
    return feeds.Records(sorted(folder.glob("*.tfrecord")), _parse, batch_size=BATCH)


def _status(*names: str) -> dict[str, int]:
    """Fields of /proc/self/status, in bytes."""
    lines = pathlib.Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return {name: int(found[name].split()[0]) * 1024 for name in names}


def _trainer(
    feed: feeds.Feed, samples: list[dict[str, int]], every: int, writer: Writer
) -> loop.Trainer:
    """A small model on averaged pixels; each step reports the sum of its examples' numbers."""
    height, width, channels = IMAGE_SHAPE
    inputs = height // _POOLED * (width // _POOLED) * channels
    model = layers.Dense(inputs, CLASSES, name="dense", seed=0)
    optimizer = optimizers.Momentum(0.01, momentum=0.9)

    def loss_fn(batch: feeds.Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        pixels = tf.cast(batch["image"], tf.float32) / 255.0
        pooled = tf.nn.avg_pool2d(pixels, _POOLED, _POOLED, "VALID")
        labels = tf.cast(batch["number"] % CLASSES, tf.int32)
        logits = model(tf.reshape(pooled, [-1, inputs]))
        number = tf.cast(batch["number"], tf.float64)
        return kernels.softmax_cross_entropy(labels, logits), {"number": number}

    def sample(_: loop.Trainer) -> None:
        samples.append(_status("VmRSS", "RssAnon", "VmData"))

    return loop.Trainer(
        step=loop.GradientStep(loss_fn, model.trainable_variables, optimizer),
        feed=feed,
        state={"model": model, "optimizer": optimizer},
        compile="graph",
        steps_per_call=STEPS_PER_CALL,
        actions=[loop.Every(every, sample)],
        writers=[writer],
    )


def _epoch(folder: pathlib.Path, name: str) -> Iterator[tuple[str, Any]]:
    feed = _feed(folder, name)
    steps = feed.size // BATCH
    samples: list[dict[str, int]] = []
    sums: list[float] = []

    def add(rows: loop.Rows) -> None:
        sums.extend((rows["number"] * BATCH).tolist())

    trainer = _trainer(feed, samples, max(1, steps // SAMPLES), add)
    trainer.train(until=steps)
    yield "examples", steps * BATCH
    yield "number_sum", round(sum(sums))
    yield "samples", samples
    yield from _status("VmHWM").items()
    yield "waiting", trainer.meter.seconds["input"]
    yield "training", trainer.meter.seconds["train"]


def main() -> None:
    """Trains and prints what was seen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--feed", choices=("records", "arrays"), required=True)
    parser.add_argument("--limit_bytes", type=int, default=resource.RLIM_INFINITY)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_DATA, (options.limit_bytes, options.limit_bytes))
    print(json.dumps(dict(_epoch(options.folder, options.feed))), flush=True)


if __name__ == "__main__":
    main()
