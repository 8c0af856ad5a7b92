"""Ours on the same augmented examples from two feeds: resident arrays, and TFRecord shards."""

from __future__ import annotations

import functools
import os
import pathlib

import numpy as np
import tensorflow as tf

import kernels
from experiments.benchmark import workloads
from experiments.benchmark.peers import tapestep, worker
from experiments.data import shards
from experiments.data.datasets import Dataset
from kernels import target
from loop import feeds, step_context
from loop.compiled.compiled_loop import Mode

EXAMPLES = 60_000
NAME = "synthetic"
SEED = 0
FOLDER = "XDG_CACHE_HOME"
"""The environment's name of the folder that holds the shards: a contender's caches."""

_AUGMENT = kernels.Augmentation(
    rotation=20.0, width_shift=0.2, height_shift=0.2, horizontal_flip=True
)


def dataset(workload: workloads.Workload) -> Dataset:
    """As many examples as MNIST has, uint8, that differ by class; from a seed."""
    generator = np.random.default_rng([SEED, 3])
    labels = generator.integers(0, workloads.CLASSES, EXAMPLES).astype(np.int32)
    shape = workload.example_shape
    templates = generator.integers(0, 128, (workloads.CLASSES, *shape), np.uint8)
    images = templates[labels] + generator.integers(0, 128, (EXAMPLES, *shape), np.uint8)
    return Dataset(
        NAME, images, labels, images[:1], labels[:1], classes=workloads.CLASSES, scale=1 / 255
    )


def _transform(batch: feeds.Batch) -> feeds.Batch:
    context = step_context.current("augmentation")
    image = _AUGMENT(
        tf.cast(batch["image"], tf.float32) / 255.0,
        seed=context.seed,
        step=context.global_step,
        positions=context.positions,
    )
    return {"x": image, "y": batch["label"]}


def resident(workload: workloads.Workload) -> feeds.Feed:
    """The examples on the device."""
    data = dataset(workload)
    return feeds.Arrays(
        {"image": data.train_images, "label": data.train_labels},
        batch_size=workload.batch,
        seed=SEED,
        transform=_transform,
    )


def records(workload: workloads.Workload) -> feeds.Feed:
    """The examples from their shards, which the referee has written."""
    files = sorted((pathlib.Path(os.environ[FOLDER]) / NAME).glob("*.tfrecord"))
    height, width, channels = workload.example_shape
    return shards.stream(
        files,
        (height, width, channels),
        batch_size=workload.batch,
        seed=SEED,
        transform=_transform,
    )


def serve(make_feed: tapestep.MakeFeed) -> None:
    """Runs a contender on this feed, in the mode that suits convolutions: chosen for neither."""
    mode: Mode = "xla" if target.default_device() == "gpu" else "graph"
    worker.serve(functools.partial(tapestep.Tapestep, compile=mode, make_feed=make_feed))
