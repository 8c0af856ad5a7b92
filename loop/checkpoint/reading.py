"""Reading a checkpoint without a model, and whether it is what was written."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import tensorflow as tf

from loop.checkpoint.directory import absolute, step_of
from loop.checkpoint.files import (
    DamagedCheckpointError,
    NotAPlainFileError,
    describe,
    first_line,
    one_line,
    read_plain,
    size_and_sha256,
)
from loop.checkpoint.manifest import FILE_NAME, MAXIMUM_BYTES, FileEntry, Manifest, decode
from loop.checkpoint.values import BUNDLE_FILES, Array, describe_variable, read_bundle, state_sha256


def load_manifest(path: Path) -> Manifest:
    """The manifest; a ValueError says in one line why there is none to trust."""
    if path.is_symlink():
        raise NotAPlainFileError(f"{path.name}: a symbolic link, not a directory: refused")
    if not path.is_dir():
        raise NotAPlainFileError(f"{path.name}: missing or not a directory")
    try:
        content = read_plain(path / FILE_NAME, MAXIMUM_BYTES + 1)
    except FileNotFoundError:
        raise ValueError(f"{FILE_NAME}: missing") from None
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise ValueError(f"{FILE_NAME}: cannot be read: {describe(error)}") from error
    manifest = decode(content)
    if set(manifest.files) != set(BUNDLE_FILES):
        raise ValueError(
            f"{FILE_NAME}: expected the files {sorted(BUNDLE_FILES)}, "
            f"found {sorted(manifest.files)[:4]}"
        )
    named = step_of(path.name)
    if named is not None and named != manifest.step:
        raise ValueError(f"{FILE_NAME}: of step {manifest.step}, in a directory named {path.name}")
    return manifest


def _file_problem(path: Path, entry: FileEntry) -> str | None:
    try:
        size, digest = size_and_sha256(path)
    except FileNotFoundError:
        return f"{path.name}: missing"
    except NotAPlainFileError as error:
        return str(error)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return f"{path.name}: cannot be read: {describe(error)}"
    if size != entry.bytes:
        how = "truncated" if size < entry.bytes else "grown"
        return f"{path.name}: {how}: {size} bytes, expected {entry.bytes}"
    if digest != entry.sha256:
        return f"{path.name}: SHA-256 is {digest[:12]}..., expected {entry.sha256[:12]}..."
    return None


def inspect(path: Path) -> tuple[Manifest | None, list[str]]:
    """The manifest, if there is one to trust, and what is wrong, one line for each problem.

    Raises:
      OSError: if a file is there but cannot be read for a reason that is no damage (permission, too
        many open files; a bad sector, EIO, is damage): an older one would be no answer to it.
    """
    try:
        manifest = load_manifest(path)
    except ValueError as error:
        return None, [str(error)]
    problems = [_file_problem(path / name, entry) for name, entry in manifest.files.items()]
    return manifest, [problem for problem in problems if problem is not None]


def read_values(path: Path, manifest: Manifest) -> dict[str, Array]:
    """The values of a checkpoint whose files `inspect` found sound, checked once more as a whole.

    Raises:
      DamagedCheckpointError: if they are not those that the manifest names.
      tf.errors.OpError: if there is not enough memory, or no permission.
    """
    index, data = sorted(manifest.files, reverse=True)
    try:
        values = read_bundle(path, manifest.variables)
    except (tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError):
        raise
    except (tf.errors.OpError, TypeError, ValueError) as error:
        raise DamagedCheckpointError(path, [f"{index}: {first_line(error)}"]) from error
    different = [
        f"{index}: {name!r} is {describe_variable(values[name])}, the manifest says {entry}"
        for name, entry in manifest.variables.items()
        if describe_variable(values[name]) != entry
    ]
    digest = state_sha256(values)
    if not different and digest != manifest.state_sha256:
        different = [
            f"{data}: holds values with SHA-256 {digest[:12]}..., the manifest says "
            f"{manifest.state_sha256[:12]}..."
        ]
    if different:
        raise DamagedCheckpointError(path, different[:5])
    return values


def verify(path: str | os.PathLike[str]) -> list[str]:
    """What is wrong with a checkpoint: one line for each problem, naming the file; [] if sound.

    Checks the manifest, every file's size and SHA-256, the variables' names, dtypes and shapes,
    and the SHA-256 of the values as TensorFlow reads them. Reads everything, changes nothing.

    Args:
      path: a checkpoint's directory.
    """
    root = absolute(path)
    try:
        manifest, problems = inspect(root)
        if manifest is None or problems:
            return problems
        read_values(root, manifest)
    except DamagedCheckpointError as error:
        return error.problems
    except (OSError, tf.errors.OpError) as error:
        return [f"{root.name}: cannot be read: {describe(error)}"]
    return []


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
