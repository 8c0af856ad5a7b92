"""Checks flags against each other and against the file system, before TensorFlow is imported."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Set
from typing import Any, NoReturn

from experiments.entry.errors import InputError, alternatives
from experiments.flags import paths, schedule_choices
from experiments.flags.flag import Flag
from experiments.flags.settings import BY_NAME, FLAGS


def check(values: Mapping[str, Any], given: Set[str]) -> None:
    """Checks what flags say of each other, their paths, and what only a few of them concerns.

    Args:
      values: flag -> value, in its own range; None where not given.
      given: the flags on the command line or in a flagfile.

    Raises:
      InputError: on the first contradiction.
    """
    for flag in FLAGS:
        _check_meaning(flag, values, given)
    _check_schedule(values)
    _check_length(values)
    _check_run(values)
    for flag in FLAGS:
        if flag.check is not None and values[flag.name] is not None:
            flag.check(flag.name, values[flag.name])
    _check_data_dir(values)
    _check_instead(values)


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
    for flag in FLAGS:
        if flag.name in given - directly and flag.only_with and flag.only_with[0] in directly:
            other, meaningful = flag.only_with
            if values[other] not in meaningful:
                dropped.add(flag.name)
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if one in directly and other in given - directly:
            dropped.add(other)
    defaults = {name: BY_NAME[name].unless_given for name in dropped}
    return {**values, **defaults}, set(given - dropped)


def _refuse(where: str, expected: str, found: object, mend: str) -> NoReturn:
    raise InputError(where, expected=expected, found=found, mend=mend)


def _check_meaning(flag: Flag, values: Mapping[str, Any], given: Set[str]) -> None:
    """A flag that would change nothing beside the others is refused, not ignored."""
    name = f"--{flag.name}"
    if flag.only_with is not None and flag.name in given:
        other, meaningful = flag.only_with
        if values[other] not in meaningful:
            _refuse(
                name,
                f"--{other}={alternatives(meaningful)} beside it",
                f"--{other}={values[other]}",
                f"remove {name}, or change --{other}",
            )
    if flag.needs and values[flag.name] != flag.default:
        needed = alternatives(f"--{other}" for other in flag.needs)
        if not any(values[other] for other in flag.needs):
            added = alternatives(BY_NAME[other].usage for other in flag.needs)
            _refuse(name, f"{needed} beside it", "none", f"add {added}, or remove {name}")


def _check_schedule(values: Mapping[str, Any]) -> None:
    schedule = values["schedule"]
    needs_steps = schedule_choices.BY_NAME[schedule].needs_decay_steps
    if needs_steps and values["decay_steps"] is None:
        _refuse(f"--schedule={schedule}", "--decay_steps beside it", "none", "add --decay_steps=N")
    if schedule != "piecewise":
        return
    for name in ("boundaries", "values"):
        if not values[name]:
            _refuse(
                "--schedule=piecewise",
                f"--{name} beside it",
                "none",
                "give --boundaries=B1,B2,... and --values=V0,V1,V2,...",
            )
    boundaries, rates = values["boundaries"], values["values"]
    if len(rates) != len(boundaries) + 1:
        _refuse(
            "--values",
            f"{len(boundaries) + 1} rates, one more than --boundaries",
            len(rates),
            "give the rate before the first boundary, and one after each",
        )
    if any(a >= b for a, b in itertools.pairwise(boundaries)):
        _refuse(
            "--boundaries",
            "rising steps",
            ",".join(map(str, boundaries)),
            "sort them and remove duplicates",
        )


def _check_length(values: Mapping[str, Any]) -> None:
    steps = values["steps"]
    if steps is None:
        return
    if values["epochs"] is not None:
        _refuse("--epochs", "either --steps or --epochs", "both", "remove one of them")
    if values["warmup_steps"] >= steps:
        _refuse(
            "--warmup_steps",
            f"fewer than the {steps} of --steps",
            values["warmup_steps"],
            "shorten the warm-up or lengthen the run",
        )
    if values["schedule"] == "piecewise" and values["boundaries"][-1] >= steps:
        _refuse(
            "--boundaries",
            f"steps before the end at {steps}",
            values["boundaries"][-1],
            "remove the boundaries that are never reached, or raise --steps",
        )


def _check_run(values: Mapping[str, Any]) -> None:
    if values["batch_size"] % values["accumulate"]:
        _refuse(
            "--accumulate",
            f"a divisor of --batch_size={values['batch_size']}",
            values["accumulate"],
            "change one of them",
        )
    if values["fresh"] and values["allow_change"]:
        _refuse(
            "--allow_change",
            "either --fresh (start anew) or --allow_change (resume)",
            "both",
            "remove one of them",
        )


def _check_data_dir(values: Mapping[str, Any]) -> None:
    """`--download` makes the folder; else it must be there."""
    if values["download"]:
        paths.folder("data_dir", values["data_dir"])
    elif values["data_dir"] is not None:
        mend = "correct the path, or add --download to make and fill it"
        paths.existing_folder("data_dir", values["data_dir"], mend=mend)


def _check_instead(values: Mapping[str, Any]) -> None:
    """What is done instead of training is one thing."""
    for flag in FLAGS if values["sweep"] else ():
        if flag.sweep == "never" and values[flag.name]:
            _refuse(
                f"--{flag.name}",
                "no --sweep beside it",
                "both",
                "remove one of them: every run of a sweep would do it",
            )
    if values["find_learning_rate"] is not None and values["dry_run"]:
        _refuse(
            "--dry_run", "either --dry_run or --find_learning_rate", "both", "remove one of them"
        )
