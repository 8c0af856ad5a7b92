"""A checkpoint's values without a model to restore them into, and how two values differ."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from loop.checkpoint.directory import absolute
from loop.checkpoint.errors import DamagedCheckpointError, one_line
from loop.checkpoint.manifest import Manifest
from loop.checkpoint.values import Array, describe_variable, raw_bytes
from loop.checkpoint.verification import inspect, load_manifest, read_values


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    Attributes:
      path: its directory.
      step: the global step.
      metadata: what was stored with it.
      values: name -> array.
    """

    path: Path
    step: int
    metadata: dict[str, Any]
    values: dict[str, Array]


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """A checkpoint's manifest; its files are not read.

    Raises:
      DamagedCheckpointError: if the manifest is missing or damaged.
      CheckpointError: if it cannot be read (permission).
    """
    root = absolute(path)
    with one_line(f"checkpoint {root} cannot be read", "check its permissions and the disk"):
        try:
            return load_manifest(root)
        except ValueError as error:
            raise DamagedCheckpointError(root, [str(error)]) from None


def read_contents(path: str | os.PathLike[str]) -> Contents:
    """Reads a checkpoint, its files' SHA-256 checked first.

    Raises:
      DamagedCheckpointError: names each damaged file.
      CheckpointError: if a file cannot be read (permission).
    """
    root = absolute(path)
    with one_line(f"checkpoint {root} cannot be read", "check its permissions and the disk"):
        manifest, problems = inspect(root)
        if manifest is None or problems:
            raise DamagedCheckpointError(root, problems)
        values = read_values(root, manifest)
    return Contents(root, manifest.step, manifest.metadata, values)


@dataclasses.dataclass(frozen=True)
class VariableDifference:
    """How one variable differs between two checkpoints.

    Attributes:
      what: how many elements differ in any bit, or both dtypes and shapes if those differ.
      largest: the largest absolute difference (NaN if one side is not finite where they differ);
        None if dtypes or shapes differ.
      mean: the mean absolute difference over all elements; None likewise.
      scale: the largest absolute value of the first.
    """

    what: str
    largest: float | None
    mean: float | None
    scale: float | None

    def cells(self) -> list[str]:
        """The four attributes as text."""
        numbers = (self.largest, self.mean, self.scale)
        return [self.what, *("-" if number is None else f"{number:.3g}" for number in numbers)]


def variable_difference(first: Array, second: Array) -> VariableDifference | None:
    """How two values differ; None if they agree in dtype, shape and every bit."""
    a, b = describe_variable(first), describe_variable(second)
    if a != b:
        return VariableDifference(f"{a} / {b}", None, None, None)
    if first.size == 0:
        return None
    width = first.dtype.itemsize
    bits = [
        np.frombuffer(raw_bytes(value), np.uint8).reshape(-1, width) for value in (first, second)
    ]
    differing = (bits[0] != bits[1]).any(axis=1)
    if not differing.any():
        return None
    wide = np.complex128 if first.dtype.kind == "c" else np.float64
    with np.errstate(invalid="ignore", over="ignore"):
        old, new = first.astype(wide).reshape(-1), second.astype(wide).reshape(-1)
        distance = np.where(differing, np.abs(new - old), 0.0)
        return VariableDifference(
            f"{int(differing.sum())} of {first.size}",
            float(distance.max()),
            float(distance.mean()),
            float(np.abs(old).max()),
        )
