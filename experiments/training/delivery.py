"""What a run starts from and hands over: another run's weights, predictions, a SavedModel."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import loop
from experiments.data.datasets import Dataset
from experiments.entry.errors import InputError
from experiments.flags import Settings
from experiments.training import models
from loop import checkpoint, distribute
from loop.evaluation.export import export
from loop.evaluation.prediction import Prediction
from loop.evaluation.warm_start import warm_start
from loop.precision.policy import Precision

# What a SavedModel is compared on.
_EXPORT_EXAMPLES = 16


def check(settings: Settings, replicas: distribute.Replicas) -> None:
    """Refuses before training what could not be handed over after it.

    Raises:
      InputError: on `--predict` with several workers, of which each has its own examples alone.
    """
    if settings.predict is not None and replicas.workers > 1:
        raise InputError(
            "--predict",
            expected="one worker",
            found=replicas.workers,
            mend="leave it out, then run once more on one worker in a copy of the directory",
        )


def start_from(settings: Settings, made: Mapping[str, Any], trainer: loop.Trainer) -> None:
    """Takes the model's variables over from `--init_from`, where the run has no checkpoint yet.

    Args:
      settings: of the run.
      made: the trainer's parts; averages of its step start from the new weights.
      trainer: not yet open; the chief's values reach the other workers when it is opened.

    Raises:
      CheckpointError: if there is nothing to take over.
    """
    resumes = settings.directory is not None and checkpoint.scan(settings.directory)
    if settings.init_from is None or not trainer.replicas.is_chief or resumes:
        return
    model = {name: v for name, v in trainer.state.items() if name.startswith("model/")}
    for line in warm_start(settings.init_from, model).lines():
        logging.getLogger("loop").info("%s", line)
    for shadows in made["step"].after_update:
        shadows.reset()


def hand_over(
    settings: Settings, made: Mapping[str, Any], trainer: loop.Trainer, data: Dataset
) -> None:
    """Writes what `--predict` and `--export` ask for, of the evaluated weights.

    Raises:
      ExportError: if the SavedModel cannot be written or computes something else.
    """
    precision = Precision(settings.precision)
    model = models.InPrecision(made["state"]["model"], precision)
    with trainer.evaluated_weights():
        if settings.predict is not None:
            outputs = Prediction(
                lambda batch: {
                    "logits": model(batch["image"], training=False),
                    "label": batch["label"],
                },
                made["evaluation"].feed,
                trainer.mode,
                trainer.replicas,
            )()
            np.savez(settings.predict, **outputs)  # type: ignore[arg-type]  # names are ours
        if settings.export is not None:
            images = data.test_images[:_EXPORT_EXAMPLES].astype(np.float32) * data.scale
            differences = export(
                Path(settings.export),
                lambda image: _served(model, image),
                {"image": images.astype(precision.variable_dtype.as_numpy_dtype)},
                made["state"]["model"],
                # A half type's sums differ by its own rounding.
                tolerance=1e-4 if precision.compute_dtype.size >= 4 else 5e-2,
            )
            logging.getLogger("loop").info(
                "exported to %s; reloaded, its outputs differ by at most %.2g",
                settings.export,
                max(differences.values()),
            )


def _served(model: models.Model, image: tf.Tensor) -> dict[str, tf.Tensor]:
    logits = tf.cast(model(image, training=False), tf.float32)
    return {"logits": logits, "probabilities": tf.nn.softmax(logits)}
