"""One training run, from checked settings to `result.json`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import loop
from experiments.data.datasets import Dataset
from experiments.entry.errors import InputError
from experiments.entry.run_main import EXIT_BAD_INPUT
from experiments.flags import Settings, schedule_choices
from experiments.flags.profile import profiled_steps
from experiments.training import dry_run, parts, range_test, result
from experiments.training.curves import FOLDER as CURVES_FOLDER
from experiments.training.curves import Curves
from experiments.training.parts import Parts
from loop import checkpoint, distribute
from loop.actions.profile import Profile
from loop.actions.progress import Progress
from loop.compiled.regions import CollectiveInRegionError
from loop.distribute import cluster
from loop.evaluation.export import ExportError
from loop.evaluation.warm_start import warm_start
from loop.run import directory, lock
from loop.run.signals import exit_code

FLAGS_FILE = "flags.txt"
PROFILE_FOLDER = "profile"
RECORDS_FOLDER = "records"

# However long the start took, the others are waited for this long.
_LEAST_MEETING_SECONDS = 5.0

_ONE_LINE = (
    checkpoint.CheckpointError,
    lock.RunLockError,
    directory.ConfigurationChangedError,
    CollectiveInRegionError,
    loop.feeds.FeedError,
    loop.NonFiniteError,
    ExportError,
    OSError,
)


def run(settings: Settings, data: Dataset, *, began: float) -> int:
    """Trains as the settings say; returns the exit status.

    Args:
      settings: of the run.
      data: what to train on.
      began: `time.monotonic()` at the program's start; workers wait for each other from then on.

    Raises:
      InputError: on settings that do not fit the data or the machine.
    """
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("loop").setLevel(logging.INFO)
    total_steps = settings.total_steps(len(data.train_images))
    replicas = _replicas(settings, time.monotonic() - began)
    try:
        with replicas.naming_a_lost_worker():  # making variables runs collectives too
            return _run_on(replicas, settings, data, total_steps)
    except loop.WorkerFailedError as error:
        raise InputError(
            f"--strategy={settings.strategy}",
            expected="every worker to start",
            found=error,
            mend="do what it says, and start all workers again",
        ) from error
    except loop.WorkerLostError as error:
        if settings.debug:
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # TensorFlow's own shutdown would wait for the lost worker


def _run_on(
    replicas: distribute.Replicas, settings: Settings, data: Dataset, total_steps: int
) -> int:
    result.check(settings, replicas)
    if settings.dry_run or settings.find_learning_rate is not None:
        _run_without_training(settings, data, replicas, total_steps)
        return 0
    with replicas.failing_together():
        directory, records = _folders(settings, replicas)
    with loop.StopSignals() as signals:
        progress = Progress(total_steps)
        made = parts.make(settings, data, replicas, total_steps, records)
        curves = Curves(directory) if settings.tensorboard and replicas.is_chief else None
        trainer = _trainer(settings, made, total_steps, directory, signals, progress, curves)
        try:
            with (
                progress,  # Ends with training: results and errors are shown below the bar.
                contextlib.closing(curves) if curves else contextlib.nullcontext(),
                trainer,
            ):
                with replicas.failing_together():
                    _start_from(settings, made, trainer)
                trainer.open()
                # No earlier: what `open` refuses is refused in one line.
                logging.getLogger("loop").info("%s", replicas.description)
                with replicas.failing_together():
                    if replicas.is_chief:
                        text = settings.to_flagfile()
                        (directory / FLAGS_FILE).write_text(text, encoding="utf-8")
                trainer.train(until=total_steps)
                evaluation = _last_evaluation(trainer)
                if replicas.is_chief:
                    result.hand_over(settings, made, trainer, data)
            if replicas.is_chief:
                result.write(settings, trainer, evaluation, directory)
        except _ONE_LINE as error:
            if settings.debug:
                raise
            print(f"error: {error}", file=sys.stderr, flush=True)
            failed = isinstance(error, (loop.NonFiniteError, ExportError))
            return 1 if failed else EXIT_BAD_INPUT
    if trainer.stop_signal is None:
        return 0
    replicas.gather([0])  # To a worker that still writes, the end of one with a status is a loss.
    return exit_code(trainer.stop_signal)


def _start_from(settings: Settings, made: Parts, trainer: loop.Trainer) -> None:
    """Takes the model's variables over from `--init_from`, where the run has no checkpoint yet.

    The trainer is not open yet: then the chief's values reach the other workers.
    """
    resumes = settings.directory is not None and checkpoint.scan(settings.directory)
    if settings.init_from is None or not trainer.replicas.is_chief or resumes:
        return
    model = {name: v for name, v in trainer.state.items() if name.startswith("model/")}
    for line in warm_start(settings.init_from, model).lines():
        logging.getLogger("loop").info("%s", line)
    for shadows in made.averages:
        shadows.reset()


def _last_evaluation(trainer: loop.Trainer) -> dict[str, Any]:
    """The evaluation of the step at which training ended: the one made there, or one made now."""
    # What a process that has trained nothing knows is on file, and only the chief knows it.
    if trainer.rows is not None and trainer.evaluations:
        step, results = trainer.evaluations[-1]
        if step == int(trainer.global_step):
            return results
    return trainer.evaluate()


def _run_without_training(
    settings: Settings, data: Dataset, replicas: distribute.Replicas, total_steps: int
) -> None:
    """What `--dry_run` and `--find_learning_rate` do; shards that are not there yet do not stay."""
    with tempfile.TemporaryDirectory() as scratch:
        given = Path(settings.records or scratch)
        records = given if (given / data.name).exists() else Path(scratch)
        made = parts.make(settings, data, replicas, total_steps, records)
        if settings.dry_run:
            dry_run.show(settings, made, total_steps)
        else:
            range_test.find(settings, made)


def _folders(settings: Settings, replicas: distribute.Replicas) -> tuple[Path, Path]:
    """The run's directory and the shards' folder.

    Only the chief keeps a run's files; the other workers get the state from it. Shards are read by
    each worker, and written by the first that finds none where it looks.
    """
    if settings.directory:
        directory = Path(settings.directory)
    elif settings.feed == "records" and settings.records is None and replicas.workers > 1:
        raise InputError(
            "--feed=records",
            expected="--records or --directory beside it, on several workers",
            found="neither",
            mend="add --records=FOLDER",
        )
    else:
        directory = _fresh_directory(settings) if replicas.is_chief else Path()
    return directory, Path(settings.records) if settings.records else directory / RECORDS_FOLDER


def _replicas(settings: Settings, age: float) -> distribute.Replicas:
    # From the start of the program, not from here: on a busy machine the import of TensorFlow takes
    # many seconds, and a worker that another one waits for may have been killed before.
    least = min(settings.meet_seconds, _LEAST_MEETING_SECONDS)
    try:
        return distribute.make(
            settings.strategy,
            virtual_devices=settings.virtual_devices,
            meet_seconds=round(max(settings.meet_seconds - age, least), 1),
        )
    except (ValueError, cluster.ClusterError) as error:
        raise InputError(
            f"--strategy={settings.strategy}",
            expected="devices for it",
            found=error,
            mend="choose another strategy",
        ) from error


def _trainer(
    settings: Settings,
    made: Parts,
    total_steps: int,
    directory: Path,
    signals: loop.StopSignals,
    progress: Progress,
    curves: Curves | None,
) -> loop.Trainer:
    actions = [*made.actions]
    if made.replicas.is_chief:
        actions.append(loop.Every(settings.log_every, progress, at_end=True))
    if settings.profile is not None:
        traced = _profiled_steps(settings.profile, total_steps)
        actions.append(Profile(*traced, directory / PROFILE_FOLDER))
    return made.trainer(
        actions=actions,
        directory=loop.RunDirectory(
            directory,
            configuration=_configuration(settings, total_steps),
            keep=settings.keep_last,
            known=[FLAGS_FILE, result.RESULT_FILE, PROFILE_FOLDER, RECORDS_FOLDER, CURVES_FOLDER],
            allow_change=settings.allow_change,
            fresh=settings.fresh,
            rebuild={"flags": settings.to_flagfile().splitlines()},
        ),
        compile=settings.compile,
        steps_per_call=settings.steps_per_call or None,
        evaluate_every=settings.eval_every,
        checkpoint_every=settings.checkpoint_every,
        writers=[] if curves is None else [curves],
        on_nonfinite=settings.on_nonfinite,
        max_nonfinite=settings.max_nonfinite,
        stall_seconds=settings.stall_seconds,
        stop_signals=signals,
    )


def _profiled_steps(text: str, total_steps: int) -> tuple[int, int]:
    first, last = profiled_steps(text)
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
    kept = settings.of_run()
    if schedule_choices.BY_NAME[settings.schedule].ends and settings.decay_steps is None:
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
