"""Restoring a state, strict both ways, all or nothing; and whether a run may start at step 0."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from loop.checkpoint.directory import absolute, damaged_entries, scan, set_aside, unknown_entries
from loop.checkpoint.files import (
    CheckpointError,
    DamagedCheckpointError,
    StateMismatchError,
    one_line,
)
from loop.checkpoint.manifest import Manifest, VariableEntry
from loop.checkpoint.reading import inspect, read_values, verify
from loop.checkpoint.values import Array, assign, check_state, describe_variable

_LISTED = 8
_NUMBER = re.compile(r"_\d+(?=[/_]|$)")


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a state was restored from.

    Attributes:
      step: the global step.
      path: the checkpoint's directory.
      metadata: what was stored with it.
      skipped: one line for each newer checkpoint that is damaged, naming what is wrong with it.
    """

    step: int
    path: Path
    metadata: dict[str, Any]
    skipped: list[str] = dataclasses.field(default_factory=list)


def mismatches(
    stored: Mapping[str, VariableEntry], wanted: Mapping[str, VariableEntry]
) -> list[str]:
    """What keeps stored variables from being restored into the wanted ones; [] if nothing does."""
    missing = sorted(wanted.keys() - stored.keys())
    left_over = sorted(stored.keys() - wanted.keys())
    different = sorted(n for n in stored.keys() & wanted.keys() if stored[n] != wanted[n])
    lines = []
    for name in missing:
        close = difflib.get_close_matches(name, left_over, n=1)
        lines.append(f"missing {name!r}" + (f" (it has {close[0]!r})" if close else ""))
    lines += [f"left over {name!r}" for name in left_over]
    lines += [f"{name!r}: expected {wanted[name]}, found {stored[name]}" for name in different]
    return lines


def _mend(stored: Mapping[str, VariableEntry], wanted: Mapping[str, VariableEntry]) -> str:
    """What to do about the mismatch; names that differ in their numbers alone are Keras's own."""

    def unnumbered(variables: Mapping[str, VariableEntry]) -> list[tuple[str, VariableEntry]]:
        return [(_NUMBER.sub("", name), entry) for name, entry in variables.items()]

    if Counter(unnumbered(stored)) == Counter(unnumbered(wanted)):
        return (
            "they differ in the numbers that Keras gives to layers without a name, which a second "
            "model of a process has other than the first: name the layers, or call "
            "keras.utils.clear_session() before the model is made"
        )
    return "restore it with the model and optimizer that wrote it"


def _read(path: Path, state: Mapping[str, tf.Variable]) -> tuple[Manifest, dict[str, Array]]:
    """Everything a restore needs, checked; touches no variable."""
    manifest, problems = inspect(path)
    if manifest is None or problems:
        raise DamagedCheckpointError(path, problems)
    wanted = {name: describe_variable(variable) for name, variable in state.items()}
    lines = mismatches(manifest.variables, wanted)
    if lines:
        more = f"; and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
        raise StateMismatchError(
            f"checkpoint {path} holds other variables than this state: "
            f"{'; '.join(lines[:_LISTED])}{more}; {_mend(manifest.variables, wanted)}"
        )
    return manifest, read_values(path, manifest)


def restore(path: str | os.PathLike[str], state: Mapping[str, tf.Variable]) -> Restored:
    """Sets every variable of `state` from one checkpoint, or none of them.

    Files' SHA-256 are checked first, then names, dtypes and shapes both ways; variables are
    assigned, on every replica, after everything was read.

    Args:
      path: a checkpoint's directory.
      state: name -> variable.

    Raises:
      DamagedCheckpointError: names each damaged file.
      StateMismatchError: names what is missing, left over or different.
      CheckpointError: if a file cannot be read (permission).
    """
    check_state(state)
    root = absolute(path)
    with one_line(f"checkpoint {root} cannot be read", "check its permissions and the disk"):
        manifest, values = _read(root, state)
        assign(state, values)
    return Restored(manifest.step, root, manifest.metadata)


def restore_latest(
    directory: str | os.PathLike[str], state: Mapping[str, tf.Variable]
) -> Restored | None:
    """Restores the newest sound checkpoint, walking back over damaged ones.

    Once one is restored, the damaged newer ones are set aside (renamed to `damaged-checkpoint-*`,
    nothing deleted), so that the run can write their steps again.

    Args:
      directory: the run's directory. The caller holds its lock.
      state: name -> variable.

    Returns:
      What was restored, with a line for each checkpoint walked over; None if the directory has no
      checkpoint at all (then ask `require_start`).

    Raises:
      CheckpointError: if there are checkpoints and none is sound; names the faults of each.
      StateMismatchError: if the newest sound one holds other variables: an older one is no answer.
    """
    skipped: list[str] = []
    damaged: list[Path] = []
    for checkpoint in reversed(scan(directory)):
        try:
            restored = restore(checkpoint.path, state)
        except DamagedCheckpointError as error:
            skipped.append(str(error))
            damaged.append(checkpoint.path)
            continue
        for path in damaged:
            set_aside(path)
        return dataclasses.replace(restored, skipped=skipped)
    if not skipped:
        return None
    raise CheckpointError(
        f"no checkpoint in {absolute(directory)} is sound, {len(skipped)} damaged: "
        f"{' | '.join(skipped[:3])}{' | ...' if len(skipped) > 3 else ''}; bring one back from a "
        "copy, or pass --fresh to start at step 0"
    )


def require_start(
    directory: str | os.PathLike[str], *, known: Collection[str] = (), fresh: bool = False
) -> None:
    """Refuses a start at step 0 in a directory that another thing or a lost run fills.

    Call it when `restore_latest` gave None; with `fresh`, instead of `restore_latest`.

    Args:
      directory: the run's directory.
      known: names that a run killed before its first checkpoint may leave (lock, flags file).
      fresh: start whatever is there, unless it is a valid checkpoint. Damaged checkpoints are set
        aside (renamed); nothing is deleted.

    Raises:
      CheckpointError: names what was found.
    """
    root = absolute(directory)
    checkpoints = scan(root)
    if fresh:
        for checkpoint in reversed(checkpoints):
            if not verify(checkpoint.path):
                raise CheckpointError(
                    f"directory {root} holds a valid checkpoint of step {checkpoint.step}; --fresh "
                    "starts at step 0 only where there is none: drop --fresh to resume, or choose "
                    "another directory"
                )
        for checkpoint in checkpoints:
            set_aside(checkpoint.path)
        return
    found = [c.path.name for c in checkpoints] + damaged_entries(root)
    found += unknown_entries(root, known)
    if found:
        names = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        raise CheckpointError(
            f"directory {root} is not empty and no valid checkpoint was restored from it (found "
            f"{names}); choose another directory, or pass --fresh to start at step 0 in this one"
        )
