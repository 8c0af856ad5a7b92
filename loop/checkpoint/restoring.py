"""Restoring a state: strict both ways, all or nothing, walking back over damaged checkpoints."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from loop.checkpoint.directory import absolute, scan, set_aside
from loop.checkpoint.errors import (
    CheckpointError,
    DamagedCheckpointError,
    StateMismatchError,
    one_line,
)
from loop.checkpoint.manifest import Manifest, VariableEntry
from loop.checkpoint.values import Array, assign, check_state, describe_variable
from loop.checkpoint.verification import inspect, read_values

_LISTED = 8


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
            f"{'; '.join(lines[:_LISTED])}{more}; restore it with the model and optimizer that "
            "wrote it"
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
