"""A warm start: variables set from another run's checkpoint where names and shapes agree."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from loop.checkpoint.directory import scan
from loop.checkpoint.files import CheckpointError
from loop.checkpoint.reading import read_contents, verify
from loop.checkpoint.values import assign
from loop.variables import named, owners_of

_LISTED = 6


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """What a warm start set, and what it did not.

    Attributes:
      path: the checkpoint.
      step: its global step.
      matched: the names that were set, a cast between float dtypes included.
      missing: names of the state that the checkpoint lacks; they keep their values.
      different: "name: has [3, 4], the checkpoint [3, 5]"; they keep their values.
      left_over: names of the checkpoint that the state lacks, of the owners (the first part of a
        name) that the state has: slots and counters of the other run are not missed.
    """

    path: Path
    step: int
    matched: list[str]
    missing: list[str]
    different: list[str]
    left_over: list[str]

    def lines(self) -> list[str]:
        """The report for a log: how many of each kind, and the first few by name."""
        parts = {
            "not in the checkpoint": self.missing,
            "of another shape or kind": self.different,
            "left over in the checkpoint": self.left_over,
        }
        first = f"warm start from {self.path}, step {self.step}: {len(self.matched)} variables set"
        return [first, *(_listed(what, names) for what, names in parts.items() if names)]


def _listed(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"  {len(names)} {what}: {'; '.join(names[:_LISTED])}{more}"


def warm_start(path: str | os.PathLike[str], state: Any) -> WarmStart:
    """Sets the variables that a checkpoint has under the same name and shape; no others.

    Give it the part of a state that is to be set, usually only the model's: another run's
    optimizer slots and counter belong to that run. Averages of the weights start from the new ones:
    call their `reset` after it.

    Args:
      path: a checkpoint's directory, or a run's, for its newest sound checkpoint.
      state: what is to be set, under the names of the saved trainer's `state=`: models, optimizers,
        variables, lists or mappings of these, as for `loop.Trainer`.

    Raises:
      CheckpointError: if there is no sound checkpoint, or nothing in it matches; nothing was set.
      TypeError: on an owner of an unknown kind.
    """
    variables = named(owners_of(state))
    found = _checkpoint_in(Path(path))
    contents = read_contents(found)
    matched, missing, different = {}, [], []
    for name, variable in variables.items():
        value = contents.values.get(name)
        if value is None:
            missing.append(name)
            continue
        dtype = tf.as_dtype(value.dtype)
        castable = dtype == variable.dtype or (dtype.is_floating and variable.dtype.is_floating)
        if tuple(value.shape) != tuple(variable.shape) or not castable:
            different.append(
                f"{name!r} is {variable.dtype.name}{list(variable.shape)}, there "
                f"{dtype.name}{list(value.shape)}"
            )
            continue
        matched[name] = value.astype(variable.dtype.as_numpy_dtype)
    if not matched:
        raise CheckpointError(
            f"checkpoint {found} has none of the {len(variables)} variables to start from, such as "
            f"{', '.join(list(variables)[:3])}; it has {', '.join(list(contents.values)[:3])}; "
            "use a checkpoint of the same model, its owner named as in the saved trainer's `state=`"
        )
    assign({name: variables[name] for name in matched}, matched)
    owners = {_owner(name) for name in variables}
    left_over = [n for n in contents.values if n not in variables and _owner(n) in owners]
    return WarmStart(found, contents.step, list(matched), missing, different, left_over)


def _owner(name: str) -> str:
    return name.partition("/")[0]


def _checkpoint_in(path: Path) -> Path:
    """The checkpoint that `path` is, or the newest sound one in it."""
    checkpoints = scan(path)
    for checkpoint in reversed(checkpoints):
        if not verify(checkpoint.path):
            return checkpoint.path
    if checkpoints:
        raise CheckpointError(
            f"no checkpoint in {path} is sound, {len(checkpoints)} damaged; use another run's"
        )
    return path
