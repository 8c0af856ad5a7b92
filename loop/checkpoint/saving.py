"""Writing a checkpoint so that it is there completely or not at all, whatever happens meanwhile."""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from loop.checkpoint.directory import (
    absolute,
    checkpoint_name,
    scan,
    set_aside,
    temporary_name,
)
from loop.checkpoint.files import (
    CheckpointError,
    fsync_path,
    one_line,
    size_and_sha256,
    write_durably,
)
from loop.checkpoint.manifest import (
    FILE_NAME,
    FileEntry,
    Json,
    Manifest,
    checked_metadata,
    encode,
)
from loop.checkpoint.reading import inspect
from loop.checkpoint.values import (
    BUNDLE_FILES,
    Array,
    copy_to_host,
    describe_variable,
    raw_bytes,
    read_bundle,
    state_sha256,
    write_bundle,
)


def save(
    directory: str | os.PathLike[str],
    step: int,
    state: Mapping[str, tf.Variable],
    metadata: Mapping[str, Json],
) -> Path:
    """Writes `<directory>/checkpoint-<step>/`: it appears complete, or not at all.

    The files are written under a temporary name, read back and compared, forced to the disk, and
    renamed; then the directory is forced to the disk. A step is never written twice: if a sound
    checkpoint of this step with the same state is there, it is kept, with its own metadata, and its
    path is returned; a damaged one of this step is set aside first.

    Args:
      directory: the run's directory; made if absent. The caller holds the run's lock.
      step: the global step, in [0, 2**63).
      state: name -> variable (a mirrored one: its primary value is written).
      metadata: JSON values stored with it: configuration, seed, replicas, ...

    Returns:
      The checkpoint's directory, absolute.

    Raises:
      CheckpointError: one line: disk full, no permission, another state under this step, a newer
        checkpoint in the directory. Earlier checkpoints are as they were.
      TypeError, ValueError: on a state, step or metadata that cannot be stored.
    """
    return write(directory, step, copy_to_host(state), metadata)


def write(
    directory: str | os.PathLike[str],
    step: int,
    arrays: Mapping[str, Array],
    metadata: Mapping[str, Json],
) -> Path:
    """`save` for a state that is already on the host."""
    name = checkpoint_name(step)
    stored = checked_metadata(metadata)
    root = absolute(directory)
    digest = state_sha256(arrays)
    with one_line(
        f"checkpoint of step {step} in {root} cannot be written",
        "earlier checkpoints are intact; free space or mend the directory, and run again",
    ):
        root.mkdir(parents=True, exist_ok=True)
        standing = _standing(root, step, digest)
        if standing is not None:
            return standing
        temporary = root / temporary_name("writing", name)
        temporary.mkdir()
        try:
            _fill(temporary, step, arrays, digest, stored)
            os.rename(temporary, root / name)
        except BaseException:
            # What cannot be removed now (it may be the disk) is an orphan of the next start.
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync_path(root)
    return root / name


def _standing(root: Path, step: int, digest: str) -> Path | None:
    """The sound checkpoint of this step and state, if there is one; raises if it is in the way."""
    checkpoints = scan(root)
    if checkpoints and checkpoints[-1].step > step:
        raise CheckpointError(
            f"checkpoint of step {step} in {root} is not written: step {checkpoints[-1].step} is "
            "already there and would be resumed from instead; use another directory to branch off"
        )
    if not checkpoints or checkpoints[-1].step != step:
        return None
    path = checkpoints[-1].path
    manifest, problems = inspect(path)
    if manifest is None or problems:
        set_aside(path)
        return None
    if manifest.state_sha256 != digest:
        raise CheckpointError(
            f"checkpoint {path} exists with another state (SHA-256 "
            f"{manifest.state_sha256[:12]}..., to write {digest[:12]}...): a step is "
            "never written twice; use another directory"
        )
    return path


def _fill(
    temporary: Path, step: int, arrays: Mapping[str, Array], digest: str, metadata: dict[str, Json]
) -> None:
    """Writes the checkpoint's files into the temporary directory and forces them to the disk."""
    variables = {name: describe_variable(array) for name, array in arrays.items()}
    write_bundle(temporary, arrays)
    for name in BUNDLE_FILES:
        fsync_path(temporary / name)
    _compare(read_bundle(temporary, variables), arrays)
    files = {name: FileEntry(*size_and_sha256(temporary / name)) for name in BUNDLE_FILES}
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    manifest = Manifest(step, created, files, variables, digest, metadata)
    write_durably(temporary / FILE_NAME, encode(manifest))
    fsync_path(temporary)


def _compare(written: Mapping[str, Array], arrays: Mapping[str, Array]) -> None:
    """Proves that what TensorFlow reads back is what was to be written: a write may fail mutely."""
    for name, array in arrays.items():
        if not np.array_equal(raw_bytes(written[name]), raw_bytes(array)):
            raise CheckpointError(
                f"checkpoint: variable {name!r} reads back other than it was written; the disk or "
                "memory is faulty"
            )
