"""What a run leaves behind: predictions, a SavedModel, weights, `result.json`, a summary."""

from __future__ import annotations

import json
import logging
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import loop
from experiments.data.datasets import Dataset
from experiments.entry.errors import InputError
from experiments.entry.significant import significant
from experiments.entry.summary import summary
from experiments.flags import Settings
from experiments.training import models
from experiments.training.parts import Parts
from loop import checkpoint, distribute
from loop.actions.meter import peak_rss_bytes
from loop.evaluation.export import export
from loop.evaluation.prediction import Prediction
from loop.precision.policy import Precision

RESULT_FILE = "result.json"

# What a SavedModel is compared on.
_EXPORT_EXAMPLES = 16


def check(settings: Settings, replicas: distribute.Replicas) -> None:
    """Refuses before training what could not be handed over after it.

    Raises:
      InputError: on `--predict` with several workers, each of which has only its own examples.
    """
    if settings.predict is not None and replicas.workers > 1:
        raise InputError(
            "--predict",
            expected="one worker",
            found=replicas.workers,
            mend="leave it out, then run once more on one worker in a copy of the directory",
        )


def hand_over(settings: Settings, made: Parts, trainer: loop.Trainer, data: Dataset) -> None:
    """Writes what `--predict` and `--export` ask for, of the evaluated weights.

    Raises:
      ExportError: if the SavedModel cannot be written or computes something else.
    """
    precision = Precision(settings.precision)
    model = models.InPrecision(made.model, precision)
    with trainer.evaluated_weights():
        if settings.predict is not None:
            outputs = Prediction(
                lambda batch: {
                    "logits": model(batch["image"], training=False),
                    "label": batch["label"],
                },
                made.evaluation.feed,
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
                made.model,
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


def write(
    settings: Settings, trainer: loop.Trainer, evaluation: dict[str, Any], directory: Path
) -> None:
    """Writes `result.json` and, with `--dump_weights`, the state; prints the summary.

    Args:
      settings: of the run.
      trainer: done, or stopped.
      evaluation: the last one's results.
      directory: of the run.

    Raises:
      OSError: as the file system does.
    """
    result = _result(trainer, evaluation)
    (directory / RESULT_FILE).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if settings.dump_weights:
        weights: dict[str, Any] = checkpoint.copy_to_host(trainer.state)
        np.savez(settings.dump_weights, **weights)
    _show(result, directory)


def _result(trainer: loop.Trainer, evaluation: dict[str, Any]) -> dict[str, Any]:
    meter = trainer.meter
    return {
        "step": int(trainer.global_step),
        "train_loss": None if trainer.rows is None else float(trainer.rows["loss"][-1]),
        **{f"test_{name}": value for name, value in evaluation.items()},
        "state_sha256": checkpoint.state_sha256(trainer.state),
        "compile": trainer.mode,
        "steps_per_call": trainer.steps_per_call,
        "traces": trainer.traces,
        "examples_per_second": meter.examples_per_second,
        "seconds": dict(meter.seconds),
        "peak_rss_bytes": peak_rss_bytes(),
        "interrupted": trainer.stop_signal,
        "stopped": trainer.stop_reason,
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": metadata.version("keras"),
            "numpy": np.__version__,
            "tapestep": metadata.version("tapestep"),
        },
    }


def _show(result: dict[str, Any], directory: Path) -> None:
    seconds = {name: significant(spent, 3) for name, spent in result["seconds"].items()}
    train_loss, speed = result["train_loss"], result["examples_per_second"]
    summary(
        {
            "step": str(result["step"]),
            "train loss": "-" if train_loss is None else significant(train_loss),
            **{
                name.replace("_", " "): significant(value)
                for name, value in result.items()
                if name.startswith("test_") and isinstance(value, float)
            },
            "examples/s": f"{speed:,.0f}" if speed else "-",
            "seconds": "  ".join(f"{name} {spent}" for name, spent in seconds.items()),
            "compile": f"{result['compile']}, {result['steps_per_call']} steps a call",
            "directory": str(directory),
        },
        "interrupted" if result["interrupted"] else "done",
    )
