"""Computes a step that was not finite again and says where the first such value arises.

    python -m experiments.replay runs/a/nonfinite-000000000123.json
    tapestep-replay runs/a/nonfinite-000000000123.json --data_dir=elsewhere

A run that stops at a step which is not finite writes the file into its directory, beside the
checkpoint of the step before. Model, optimizer and data are made again from the run's flags in the
file (flags given here overrule those), the state is restored, and the one step is computed eagerly
on one replica, operation by operation. Nothing is written.

Exit status: 0 found where the value arises, 1 the step is finite when it is computed here (another
compiler rounds otherwise; the data may have changed), 2 bad input (one line on stderr).
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import TYPE_CHECKING

from experiments import flags
from experiments.data import datasets
from experiments.entry import tensorflow_import
from experiments.entry.errors import InputError
from experiments.entry.run_main import debug_requested, run_main
from experiments.flags.settings import FLAGS

if TYPE_CHECKING:
    from loop.nonfinite.examination import Findings

EXIT_FINITE = 1


def main(argv: list[str]) -> int:
    """Replays the file; returns the exit status."""
    if len(argv) < 2 or argv[1].startswith("-"):
        raise InputError(
            "command line",
            expected="a replay file",
            found=argv[1] if len(argv) > 1 else "nothing",
            mend="python -m experiments.replay RUN/nonfinite-STEP.json",
        )
    path, overruling = argv[1], argv[2:]
    with tensorflow_import.without_banner(show=debug_requested(overruling)):
        import loop
        from experiments.training import parts
        from loop import checkpoint
        from loop.nonfinite import replay_file
    try:
        file = replay_file.read(path)
        settings = flags.parse([argv[0], *_flags(path, file.rebuild), *overruling])
        data = datasets.load(settings.dataset, settings.data_dir)
        replicas = loop.distribute.single()
        # The streamed examples are the resident ones, and a replay writes no shards.
        settings = dataclasses.replace(settings, feed="resident")
        total_steps = settings.total_steps(len(data.train_images))
        made = parts.make(settings, data, replicas, total_steps, pathlib.Path())
        trainer = made.trainer(compile="eager")
        replay_file.restore(path, file, trainer.state)
    except (replay_file.ReplayError, checkpoint.CheckpointError) as error:
        raise InputError(
            path,
            expected="a replay file beside its checkpoint",
            found=error,
            mend="give the file in its run's directory, and this run's flags",
        ) from error
    print(
        f"step {file.step} again, eagerly on one replica: seed {file.seed}, state {file.checkpoint}"
    )
    findings = trainer.examine()
    ids = trainer.feed.example_ids(file.step)
    for line in _lines(findings, None if ids is None else ids.tolist()):
        print(line)
    return EXIT_FINITE if findings.finite else 0


def _flags(path: str, rebuild: dict[str, object]) -> list[str]:
    stored = rebuild.get("flags")
    if not isinstance(stored, list) or not all(isinstance(flag, str) for flag in stored):
        raise InputError(
            path,
            expected="a replay file of experiments.train, with flags",
            found="one of another program",
            mend="replay it with that program, through loop.nonfinite.replay_file",
        )
    # Where and how a run went has no part in one eager step on one replica.
    left_out = {f"--{flag.name}" for flag in FLAGS if not flag.replayed}
    return [flag for flag in stored if flag.partition("=")[0] not in left_out]


def _lines(findings: Findings, ids: list[int] | None) -> list[str]:
    """What was found, the cause first."""
    if findings.finite:
        return ["the step is finite when it is computed eagerly, on one replica, here"]
    lines = [f"variables that are not finite before the step: {', '.join(findings.state)}"]
    lines = lines if findings.state else []
    for name, places in findings.batch.items():
        lines.append(f"not finite in the batch: {name!r} of {_named(places, ids)}")
    if findings.examples:
        lines.append(f"not finite: the loss of {_named(findings.examples, ids)}")
    lines += [f"first value that is not finite: {origin}" for origin in findings.origins[:1]]
    lines += [f"later, on its own: {origin}" for origin in findings.origins[1:4]]
    lines.append(f"loss: {findings.loss}")
    lines.append(f"gradients that are not finite: {', '.join(findings.variables or ()) or 'none'}")
    return lines


def _named(places: tuple[int, ...], ids: list[int] | None) -> str:
    known = [str(place if ids is None else ids[place]) for place in places]
    return f"{'positions' if ids is None else 'examples'} {', '.join(known)}"


cli = functools.partial(run_main, main, doc=__doc__)

if __name__ == "__main__":
    cli()
