"""Ours on the same augmented examples from two feeds: resident arrays, and TFRecord shards."""

from __future__ import annotations

import functools
import os
import pathlib
from typing import Literal

import numpy as np
import tensorflow as tf

import kernels
from experiments.benchmark import workloads
from experiments.benchmark.contenders import tapestep
from experiments.data import shards
from experiments.data.datasets import Dataset
from kernels import target
from loop import feeds, step_context

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


def _feed(workload: workloads.Workload, name: Literal["resident", "records"]) -> feeds.Feed:
    """The examples on the device, or from their shards, which the referee has written."""
    batch, (height, width, channels) = workload.batch, workload.example_shape
    if name == "resident":
        data = dataset(workload)
        images, labels = data.train_images, data.train_labels
        return feeds.Arrays(
            {"image": images, "label": labels}, batch_size=batch, seed=SEED, transform=_transform
        )
    files = sorted((pathlib.Path(os.environ[FOLDER]) / NAME).glob("*.tfrecord"))
    shape = (height, width, channels)
    return shards.stream(files, shape, batch_size=batch, seed=SEED, transform=_transform)


class Contender(tapestep.Contender):
    """Ours on this feed, in the mode that suits convolutions: chosen for neither."""

    def __init__(
        self, workload: workloads.Workload, _: int, *, feed: Literal["resident", "records"]
    ) -> None:
        super().__init__(
            workload,
            0,
            compile="xla" if target.default_device() == "gpu" else "graph",
            make_feed=functools.partial(_feed, name=feed),
        )
