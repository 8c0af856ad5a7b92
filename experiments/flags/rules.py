"""Checks flags against each other and against the file system, before TensorFlow is imported."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Set
from typing import Any

from experiments.entry.errors import InputError, alternatives
from experiments.flags import metrics, outer, schedule_choices, table

_PATHS = (
    *(
        "directory",
        "data_dir",
        "records",
        "dump_weights",
        "init_from",
        "profile",
        "predict",
        "export",
    ),
    "find_learning_rate",
)


def check(values: dict[str, Any], given: Set[str]) -> None:
    """Checks every pair of flags that can contradict each other.

    Args:
      values: flag -> value, in its own range; None where not given.
      given: the flags on the command line or in a flagfile.

    Raises:
      InputError: on the first contradiction.
    """
    _check_meaning(values, given)
    _check_schedule(values)
    _check_length(values)
    _check_run(values)
    _check_decisions(values)
    _check_paths(values)


def overrule(
    values: Mapping[str, Any], given: Set[str], directly: Set[str]
) -> tuple[dict[str, Any], set[str]]:
    """Drops the flags of a flagfile that a flag beside the flagfile leaves without a meaning.

    Args:
      values: flag -> value.
      given: the flags given in any way.
      directly: those given outside flagfiles.

    Returns:
      Values and given flags, without the dropped ones.
    """
    dropped = set()
    for flag in table.FLAGS:
        if flag.name in given - directly and flag.only_with and flag.only_with[0] in directly:
            other, meaningful = flag.only_with
            if values[other] not in meaningful:
                dropped.add(flag.name)
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if one in directly and other in given - directly:
            dropped.add(other)
    kept = {name: value for name, value in values.items() if name not in dropped}
    return {**{name: table.BY_NAME[name].default for name in dropped}, **kept}, set(given - dropped)


def _check_meaning(values: dict[str, Any], given: Set[str]) -> None:
    """A flag that would change nothing beside the others is refused, not ignored."""
    for flag in table.FLAGS:
        if flag.name not in given or flag.only_with is None:
            continue
        other, meaningful = flag.only_with
        if values[other] not in meaningful:
            raise InputError(
                f"--{flag.name}",
                expected=f"--{other}={alternatives(meaningful)} beside it",
                found=f"--{other}={values[other]}",
                mend=f"remove --{flag.name}, or change --{other}",
            )


def _check_schedule(values: dict[str, Any]) -> None:
    schedule = values["schedule"]
    needs_steps = schedule_choices.BY_NAME[schedule].needs_decay_steps
    if needs_steps and values["decay_steps"] is None:
        raise InputError(
            f"--schedule={schedule}",
            expected="--decay_steps beside it",
            found="none",
            mend="add --decay_steps=N",
        )
    if schedule != "piecewise":
        return
    for name in ("boundaries", "values"):
        if not values[name]:
            raise InputError(
                "--schedule=piecewise",
                expected=f"--{name} beside it",
                found="none",
                mend="give --boundaries=B1,B2,... and --values=V0,V1,V2,...",
            )
    boundaries, rates = values["boundaries"], values["values"]
    if len(rates) != len(boundaries) + 1:
        raise InputError(
            "--values",
            expected=f"{len(boundaries) + 1} rates, one more than --boundaries",
            found=len(rates),
            mend="give the rate before the first boundary, and one after each",
        )
    if any(a >= b for a, b in itertools.pairwise(boundaries)):
        raise InputError(
            "--boundaries",
            expected="rising steps",
            found=",".join(map(str, boundaries)),
            mend="sort them and remove duplicates",
        )


def _check_length(values: dict[str, Any]) -> None:
    steps = values["steps"]
    if steps is None:
        return
    if values["epochs"] is not None:
        raise InputError(
            "--epochs",
            expected="either --steps or --epochs",
            found="both",
            mend="remove one of them",
        )
    if values["warmup_steps"] >= steps:
        raise InputError(
            "--warmup_steps",
            expected=f"fewer than the {steps} of --steps",
            found=values["warmup_steps"],
            mend="shorten the warm-up or lengthen the run",
        )
    if values["schedule"] == "piecewise" and values["boundaries"][-1] >= steps:
        raise InputError(
            "--boundaries",
            expected=f"steps before the end at {steps}",
            found=values["boundaries"][-1],
            mend="remove the boundaries that are never reached, or raise --steps",
        )


def _check_run(values: dict[str, Any]) -> None:
    if values["batch_size"] % values["accumulate"]:
        raise InputError(
            "--accumulate",
            expected=f"a divisor of --batch_size={values['batch_size']}",
            found=values["accumulate"],
            mend="change one of them",
        )
    if values["fresh"] and values["allow_change"]:
        raise InputError(
            "--allow_change",
            expected="either --fresh (start anew) or --allow_change (resume)",
            found="both",
            mend="remove one of them",
        )
    for name in ("fresh", "allow_change"):
        if values[name] and values["directory"] is None:
            raise InputError(
                f"--{name}",
                expected="--directory beside it",
                found="none",
                mend=f"add --directory=FOLDER, or remove --{name}",
            )


def _check_decisions(values: dict[str, Any]) -> None:
    """Decisions on evaluations need evaluations, and their options need a decision."""
    decisions = [name for name in outer.DECISIONS if values[name]]
    if decisions and not values["eval_every"]:
        raise InputError(
            f"--{decisions[0]}",
            expected="--eval_every beside it",
            found="none",
            mend="add --eval_every=N",
        )
    for name, needed in (("monitor", outer.DECISIONS), ("plateau_factor", ("plateau",))):
        if values[name] != table.BY_NAME[name].default and not any(values[n] for n in needed):
            raise InputError(
                f"--{name}",
                expected=alternatives(f"--{other}" for other in needed) + " beside it",
                found="none",
                mend=f"remove --{name}, or add one of them",
            )


def _check_paths(values: dict[str, Any]) -> None:
    for name in _PATHS:
        path = values[name]
        # A flagfile strips its lines; what it cannot hold could not be reproduced.
        if path is not None and (not path or path != path.strip() or not path.isprintable()):
            raise InputError(
                f"--{name}",
                expected="a path of printable characters without blanks at its ends",
                found=repr(path),
                mend="rename it",
            )
    if values["profile"] is not None:
        profiled_steps(values["profile"])
    if values["metrics"] is not None:
        metrics.parsed(values["metrics"])
    for name in ("directory", "records"):
        if values[name] is not None and not _can_be_folder(values[name]):
            raise InputError(
                f"--{name}={values[name]}",
                expected="a folder, or a path where one can be made",
                found="a file on the way",
                mend="choose another path",
            )
    _check_data_dir(values)
    for name in ("dump_weights", "predict"):
        _check_archive(name, values[name])
    _check_start_and_export(values)
    _check_instead(values)


def _can_be_folder(path: str) -> bool:
    """Whether the nearest existing part of `path` is a folder."""
    path = os.path.abspath(path)
    while not os.path.lexists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return os.path.isdir(path)


def _check_data_dir(values: dict[str, Any]) -> None:
    folder = values["data_dir"]
    if values["download"]:
        if folder is None:
            raise InputError(
                "--download",
                expected="--data_dir beside it",
                found="none",
                mend="add --data_dir=FOLDER, where the files are to go",
            )
        if not _can_be_folder(folder):
            raise InputError(
                f"--data_dir={folder}",
                expected="a folder, or a path where one can be made",
                found="a file on the way",
                mend="choose another path",
            )
    elif folder is not None and not os.path.isdir(folder):
        raise InputError(
            f"--data_dir={folder}",
            expected="an existing folder",
            found="a file" if os.path.exists(folder) else "nothing",
            mend="correct the path, or add --download to make and fill it",
        )


def _check_start_and_export(values: dict[str, Any]) -> None:
    start, target = values["init_from"], values["export"]
    if start is not None and not os.path.isdir(start):
        raise InputError(
            f"--init_from={start}",
            expected="the folder of a run or of a checkpoint",
            found="a file" if os.path.exists(start) else "nothing",
            mend="correct the path",
        )
    if target is not None and (os.path.lexists(target) or not _can_be_folder(target)):
        raise InputError(
            f"--export={target}",
            expected="a path where nothing is and a folder can be made",
            found="something there" if os.path.lexists(target) else "a file on the way",
            mend="remove what is there, or choose another path",
        )


def _check_instead(values: dict[str, Any]) -> None:
    """What is done instead of training is one thing, and has a place to go to."""
    if values["sweep"]:
        for other in ("dry_run", "find_learning_rate", "export", "predict", "dump_weights"):
            if values[other]:
                raise InputError(
                    f"--{other}",
                    expected="no --sweep beside it",
                    found="both",
                    mend="remove one of them: every run of a sweep would do it",
                )
    name = values["find_learning_rate"]
    if name is None:
        return
    if values["dry_run"]:
        raise InputError(
            "--dry_run",
            expected="either --dry_run or --find_learning_rate",
            found="both",
            mend="remove one of them",
        )
    folder = os.path.dirname(name) or "."
    if not os.path.isdir(folder):
        raise InputError(
            f"--find_learning_rate={name}",
            expected="a name in an existing folder",
            found=f"no folder {folder}",
            mend="make the folder, or choose another path",
        )


def profiled_steps(text: str) -> tuple[int, int]:
    """The first and last step of `--profile`.

    Raises:
      InputError: if it is not FIRST:LAST, 1 <= FIRST < LAST.
    """
    first, _, last = text.partition(":")
    if first.isdecimal() and last.isdecimal() and 1 <= int(first) < int(last):
        return int(first), int(last)
    raise InputError(
        "--profile",
        expected="FIRST:LAST with 1 <= FIRST < LAST",
        found=text or "nothing",
        mend="give for example --profile=100:110; the first step compiles",
    )


def _check_archive(name: str, path: str | None) -> None:
    if path is None:
        return
    if not path.endswith(".npz"):
        raise InputError(
            f"--{name}={path}",
            expected="a name that ends in .npz",
            found=os.path.basename(path),
            mend="add the ending",
        )
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder) or os.path.isdir(path):
        raise InputError(
            f"--{name}={path}",
            expected="a file in an existing folder",
            found="a folder" if os.path.isdir(path) else f"no folder {folder}",
            mend="make the folder, or choose another path",
        )
