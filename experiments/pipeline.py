"""From a data set to what a run computes on its batches: feed, loss, evaluation."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

import kernels
import loop
from experiments.datasets import Dataset
from experiments.flags import Settings
from experiments.models import Model
from loop.feeds import Batch
from loop.feeds.arrays import Transform

_EVALUATION_BATCH = 500


def training_feed(settings: Settings, data: Dataset, dtype: Any) -> loop.feeds.Arrays:
    """The training examples on the device, shuffled by the run's seed."""
    return loop.feeds.Arrays(
        {"image": data.train_images, "label": data.train_labels},
        batch_size=settings.batch_size,
        seed=settings.seed,
        transform=_scaled(data, dtype),
    )


def _scaled(data: Dataset, dtype: Any) -> Transform:
    def scale(batch: Batch) -> Batch:
        return {**batch, "image": tf.cast(batch["image"], dtype) * tf.constant(data.scale, dtype)}

    return scale


def loss_function(model: Model) -> Any:
    """The training loss of a batch, and its accuracy."""

    def loss(batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        logits = model(batch["image"], training=True)
        losses = kernels.softmax_cross_entropy(batch["label"], logits)
        return losses, {"accuracy": _correct(batch["label"], logits)}

    return loss


def evaluation(model: Model, data: Dataset, dtype: Any) -> loop.Evaluation:
    """Loss and accuracy over the test examples."""

    def values(batch: Batch) -> dict[str, tf.Tensor]:
        logits = model(batch["image"], training=False)
        losses = kernels.softmax_cross_entropy(batch["label"], logits)
        return {"loss": losses, "accuracy": _correct(batch["label"], logits)}

    feed = loop.feeds.Arrays(
        {"image": data.test_images, "label": data.test_labels},
        batch_size=min(_EVALUATION_BATCH, len(data.test_images)),
        transform=_scaled(data, dtype),
    )
    return loop.Evaluation(values, feed)


def _correct(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.equal(tf.argmax(logits, -1, tf.int32), labels), tf.float32)
