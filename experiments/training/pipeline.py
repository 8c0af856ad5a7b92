"""From a data set to what a run computes on its batches: feed, loss, evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

import kernels
import loop
from experiments.data import shards
from experiments.data.datasets import Dataset
from experiments.flags import Settings
from experiments.training.evaluation_metrics import EvaluationMetrics
from experiments.training.models import Model
from loop import step_context
from loop.feeds import Batch
from loop.feeds.arrays import Transform

_EVALUATION_BATCH = 500


def training_feed(
    settings: Settings, data: Dataset, dtype: Any, records: Path
) -> loop.feeds.Arrays | loop.feeds.Records:
    """The training examples, shuffled by the run's seed, augmented in the step.

    Args:
      settings: say whether they are on the device or streamed.
      data: the examples.
      dtype: of the images in a step.
      records: the folder of the shards, where they are streamed.

    Raises:
      InputError: on shards that cannot be written or read.
    """
    options: dict[str, Any] = {
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "transform": _training_transform(settings, data, dtype),
        "partners": settings.mixup > 0,
    }
    if settings.feed == "records":
        return shards.feed(records, data, **options)
    return loop.feeds.Arrays({"image": data.train_images, "label": data.train_labels}, **options)


def augmentation(settings: Settings) -> kernels.Augmentation:
    """What `--augment` and the flags that change it ask for."""
    standard = settings.augment == "standard"
    return kernels.Augmentation(
        rotation=settings.rotation,
        width_shift=settings.shift,
        height_shift=settings.shift,
        shear=settings.shear,
        zoom=settings.zoom,
        horizontal_flip=settings.flip,
        crop_padding=settings.crop,
        cutout=settings.cutout,
        fill="constant" if standard else "nearest",
    )


def _training_transform(settings: Settings, data: Dataset, dtype: Any) -> Transform:
    scale = _scaled(data, dtype)
    augment = augmentation(settings)

    def augmented(batch: Batch, positions: tf.Tensor) -> Batch:
        context = step_context.current("augmentation")
        image = augment(
            scale(batch)["image"],
            seed=context.seed,
            step=context.global_step,
            positions=positions,
        )
        return {**batch, "image": image}

    def transform(batch: Batch) -> Batch:
        context = step_context.current("augmentation")
        if not settings.mixup:
            return augmented(batch, context.positions)
        # A partner is augmented as in its own place, so it is drawn there.
        partner = augmented(batch["partner"], context.batch_size - 1 - context.positions)
        own = augmented({k: v for k, v in batch.items() if k != "partner"}, context.positions)
        image, share = kernels.mixup(
            own["image"],
            partner["image"],
            alpha=settings.mixup,
            seed=context.seed,
            step=context.global_step,
            positions=context.positions,
        )
        targets = kernels.mixed_one_hot(batch["label"], partner["label"], share, data.classes)
        return {"image": image, "label": batch["label"], "targets": targets}

    return transform


def _scaled(data: Dataset, dtype: Any) -> Transform:
    def scale(batch: Batch) -> Batch:
        return {**batch, "image": tf.cast(batch["image"], dtype) * tf.cast(data.scale, dtype)}

    return scale


def loss_function(model: Model) -> Any:
    """The training loss of a batch, and its accuracy."""

    def loss(batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        logits = model(batch["image"], training=True)
        if "targets" in batch:
            losses = kernels.softmax_cross_entropy_soft(batch["targets"], logits)
        else:
            losses = kernels.softmax_cross_entropy(batch["label"], logits)
        return losses, {"accuracy": _correct(batch["label"], logits)}

    return loss


def evaluation(
    model: Model, data: Dataset, dtype: Any, metrics: EvaluationMetrics
) -> loop.Evaluation:
    """Loss, accuracy and the chosen metrics over the test examples."""

    def values(batch: Batch) -> dict[str, tf.Tensor]:
        logits = model(batch["image"], training=False)
        losses = kernels.softmax_cross_entropy(batch["label"], logits)
        return {
            "loss": losses,
            "accuracy": _correct(batch["label"], logits),
            **metrics.values(batch["label"], logits),
        }

    feed = loop.feeds.Arrays(
        {"image": data.test_images, "label": data.test_labels},
        batch_size=min(_EVALUATION_BATCH, len(data.test_images)),
        transform=_scaled(data, dtype),
    )
    return loop.Evaluation(values, feed, metrics=metrics.of)


def _correct(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.equal(tf.argmax(logits, -1, tf.int32), labels), tf.float32)
