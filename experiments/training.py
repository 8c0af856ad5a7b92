"""One training run, from checked settings to `result.json`."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import rich
import tensorflow as tf

import loop
from experiments import (
    delivery,
    dry_run,
    learning_rate,
    models,
    outer_loop,
    pipeline,
    recipe,
    steps,
)
from experiments.datasets import Dataset
from experiments.entry import EXIT_BAD_INPUT
from experiments.errors import InputError
from experiments.flags import Settings, rules
from loop import checkpoint, cluster, distribute, run_directory, run_lock
from loop.export import ExportError
from loop.meter import peak_rss_bytes
from loop.precision import Precision
from loop.profile import Profile
from loop.progress import Progress, summary
from loop.signals import exit_code

FLAGS_FILE = "flags.txt"
RESULT_FILE = "result.json"
PROFILE_FOLDER = "profile"

_ENDING_SCHEDULES = ("cosine", "polynomial", "linear_cosine", "one_cycle")
_ONE_LINE = (
    checkpoint.CheckpointError,
    run_lock.RunLockError,
    run_directory.ConfigurationChangedError,
    loop.compile.CollectiveInRegionError,
    loop.feeds.FeedError,
    loop.NonFiniteError,
    ExportError,
    OSError,
)

# What may differ between a run and its resume without making it another run.
_HARMLESS = frozenset(
    {
        "steps",
        "epochs",
        "directory",
        "data_dir",
        "download",
        "log_every",
        "eval_every",
        "checkpoint_every",
        "dump_weights",
        "steps_per_call",
        "early_stop",
        "keep_best",
        "keep_last",
        "profile",
        "predict",
        "export",
        "dry_run",
        "find_learning_rate",
        "sweep",
        "on_nonfinite",
        "max_nonfinite",
        "stall_seconds",
        "allow_change",
        "fresh",
        "debug",
        # Told apart by the directory's record of what bit-exactness depends on.
        "compile",
        "strategy",
        "virtual_devices",
        "seed",
    }
)


def list_devices() -> None:
    """Makes TensorFlow look for GPUs, which it does once and not in silence."""
    tf.config.list_physical_devices()


def run(settings: Settings, data: Dataset) -> int:
    """Trains as the settings say; returns the exit status.

    Raises:
      InputError: on settings that do not fit the data or the machine.
    """
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("loop").setLevel(logging.INFO)
    total_steps = steps.total(settings, data)
    replicas = _replicas(settings)
    delivery.check(settings, replicas)
    if settings.dry_run:
        dry_run.show(settings, parts(settings, data, replicas, total_steps), total_steps)
        return 0
    if settings.find_learning_rate is not None:
        learning_rate.find(settings, parts(settings, data, replicas, total_steps))
        return 0
    # Only the chief keeps files; the other workers get the state from it.
    given = settings.directory or ("." if not replicas.is_chief else None)
    directory = Path(given) if given else _fresh_directory(settings)
    with loop.StopSignals() as signals, Progress(total_steps) as progress:
        made = parts(settings, data, replicas, total_steps)
        trainer = _trainer(settings, made, total_steps, directory, signals, progress)
        try:
            with trainer:
                delivery.start_from(settings, made, trainer)
                trainer.open()
                # No earlier: what `open` refuses is refused in one line.
                logging.getLogger("loop").info("%s", replicas.description)
                if replicas.is_chief:
                    (directory / FLAGS_FILE).write_text(settings.to_flagfile(), encoding="utf-8")
                trainer.train(until=total_steps)
                evaluation = trainer.evaluate()
                if replicas.is_chief:
                    delivery.hand_over(settings, made, trainer, data)
            if replicas.is_chief:
                _write(settings, trainer, evaluation, directory)
        except _ONE_LINE as error:
            if settings.debug:
                raise
            print(f"error: {error}", file=sys.stderr, flush=True)
            failed = isinstance(error, (loop.NonFiniteError, ExportError))
            return 1 if failed else EXIT_BAD_INPUT
        except tf.errors.OpError as error:
            lost = cluster.lost_worker(str(error.message)) if replicas.workers > 1 else None
            if lost is None or settings.debug:
                raise
            _leave_lost_run(replicas, lost)
    return 0 if trainer.stop_signal is None else exit_code(trainer.stop_signal)


def _leave_lost_run(replicas: distribute.Replicas, lost: str) -> NoReturn:
    """Ends the process at once: TensorFlow's own shutdown would wait for the lost worker."""
    print(
        f"error: worker {replicas.worker} of {replicas.workers} lost {lost}; start all of them "
        "again: the run goes on from its last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _write(
    settings: Settings, trainer: loop.Trainer, evaluation: dict[str, float], directory: Path
) -> None:
    result = _result(trainer, evaluation)
    (directory / RESULT_FILE).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if settings.dump_weights:
        weights: dict[str, Any] = checkpoint.copy_to_host(trainer.state)
        np.savez(settings.dump_weights, **weights)
    _show(result, directory)


def _replicas(settings: Settings) -> distribute.Replicas:
    try:
        return distribute.make(settings.strategy, virtual_devices=settings.virtual_devices)
    except (ValueError, cluster.ClusterError) as error:
        raise InputError(
            f"--strategy={settings.strategy}",
            expected="devices for it",
            found=error,
            mend="choose another strategy",
        ) from error


def parts(
    settings: Settings, data: Dataset, replicas: distribute.Replicas, total_steps: int
) -> dict[str, Any]:
    """Step, feed, state, evaluation and its actions, as arguments of `loop.Trainer`."""
    # Of the batch's entries only images are cast: mixup's targets need more than a half type.
    precision = Precision(settings.precision, inputs=("image",))
    dtype = precision.variable_dtype
    with replicas.scope():
        model = models.make(
            settings.model,
            data.image_shape,
            data.classes,
            dropout=settings.dropout,
            seed=settings.seed,
            precision=precision,
            synchronized=settings.batch_norm == "synchronized",
        )
        outer = outer_loop.OuterLoop(settings)
        schedule = outer.schedule(recipe.schedule(settings, total_steps))
        optimizer = recipe.optimizer(settings, schedule)
        step = loop.GradientStep(
            pipeline.loss_function(model),
            model.trainable_variables,
            optimizer,
            clip=recipe.clip(settings),
            accumulate=settings.accumulate,
            precision=precision,
            after_update=outer.after_update,
        )
    return {
        "step": step,
        "feed": pipeline.training_feed(settings, data, dtype),
        "state": {"model": model, "optimizer": optimizer, **outer.state},
        "evaluation": pipeline.evaluation(models.InPrecision(model, precision), data, dtype),
        "replicas": replicas,
        **outer.trainer_options(),
    }


def _trainer(
    settings: Settings,
    made: dict[str, Any],
    total_steps: int,
    directory: Path,
    signals: loop.StopSignals,
    progress: Progress,
) -> loop.Trainer:
    actions = [*made["actions"]]
    if made["replicas"].is_chief:
        actions.append(loop.Every(settings.log_every, progress, at_end=True))
    if settings.profile is not None:
        traced = _profiled_steps(settings.profile, total_steps)
        actions.append(Profile(*traced, directory / PROFILE_FOLDER))
    return loop.Trainer(
        **{**made, "actions": actions},
        directory=loop.RunDirectory(
            directory,
            configuration=_configuration(settings, total_steps),
            keep=settings.keep_last,
            known=[FLAGS_FILE, RESULT_FILE, PROFILE_FOLDER],
            allow_change=settings.allow_change,
            fresh=settings.fresh,
            rebuild={"flags": settings.to_flagfile().splitlines()},
        ),
        compile=settings.compile,
        steps_per_call=settings.steps_per_call or None,
        evaluate_every=settings.eval_every,
        checkpoint_every=settings.checkpoint_every,
        on_nonfinite=settings.on_nonfinite,
        max_nonfinite=settings.max_nonfinite,
        stall_seconds=settings.stall_seconds,
        stop_signals=signals,
    )


def _profiled_steps(text: str, total_steps: int) -> tuple[int, int]:
    first, last = rules.profiled_steps(text)
    if last > total_steps:
        raise InputError(
            "--profile",
            expected=f"steps of the run, which has {total_steps}",
            found=text,
            mend="trace earlier steps, or train longer",
        )
    return first, last


def _configuration(settings: Settings, total_steps: int) -> dict[str, Any]:
    """The settings that make it this run, with the schedule's end worked out."""
    kept = {k: v for k, v in dataclasses.asdict(settings).items() if k not in _HARMLESS}
    if settings.schedule in _ENDING_SCHEDULES and settings.decay_steps is None:
        kept["decay_steps"] = total_steps - settings.warmup_steps
    if settings.plateau:
        kept["eval_every"] = settings.eval_every
    return kept


def _fresh_directory(settings: Settings) -> Path:
    """A directory of this run's own, made here so that two runs of one second get two."""
    name = f"{settings.dataset}-{settings.model}-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        path = Path("runs", name + suffix)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(
                "--directory",
                expected="runs/ to be writable where none is given",
                found=error.strerror,
                mend="give --directory",
            ) from error
        return path
    raise InputError("--directory", expected="a free name", found=name, mend="give --directory")


def _result(trainer: loop.Trainer, evaluation: dict[str, float]) -> dict[str, Any]:
    meter = trainer.meter
    return {
        "step": int(trainer.global_step),
        "train_loss": None if trainer.rows is None else float(trainer.rows["loss"][-1]),
        "test_loss": evaluation["loss"],
        "test_accuracy": evaluation["accuracy"],
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
    seconds = result["seconds"]
    rich.print(
        summary(
            {
                "step": str(result["step"]),
                "train loss": "-"
                if result["train_loss"] is None
                else f"{result['train_loss']:.4f}",
                "test loss": f"{result['test_loss']:.4f}",
                "test accuracy": f"{result['test_accuracy']:.4f}",
                "examples/s": f"{result['examples_per_second']:,.0f}",
                "seconds": "  ".join(f"{name} {spent:.2f}" for name, spent in seconds.items()),
                "compile": f"{result['compile']}, {result['steps_per_call']} steps a call",
                "directory": str(directory),
            },
            "interrupted" if result["interrupted"] else "done",
        )
    )
