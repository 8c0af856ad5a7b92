"""What a run leaves behind when it ends: `result.json`, its weights on request, a summary."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import loop
from experiments.entry.significant import significant
from experiments.entry.summary import summary
from experiments.flags import Settings
from loop import checkpoint
from loop.actions.meter import peak_rss_bytes

RESULT_FILE = "result.json"


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
