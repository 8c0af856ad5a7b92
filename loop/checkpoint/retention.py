"""Which checkpoints are kept."""

from __future__ import annotations

import operator
import os
from collections.abc import Collection

from loop.checkpoint.directory import absolute, delete_tree, is_directory, scan, temporary_name
from loop.checkpoint.errors import one_line
from loop.checkpoint.files import fsync_path


def check_keep(keep: int | None) -> None:
    """Refuses a number of checkpoints to keep that would delete the newest.

    Raises:
      ValueError: if it is neither None nor at least 1.
    """
    if keep is not None and (isinstance(keep, bool) or operator.index(keep) < 1):
        raise ValueError(f"checkpoint: keep must be None (all) or at least 1, got {keep!r}")


def retain(
    directory: str | os.PathLike[str], keep: int | None, pinned: Collection[int] = ()
) -> list[int]:
    """Deletes all checkpoints but the last `keep` and the pinned ones.

    Each is first renamed, so that a run killed in between leaves an orphan (`clean_orphans`) and
    never half a checkpoint. Call it after a save, holding the run's lock.

    Args:
      directory: the run's directory.
      keep: how many of the newest to keep, at least 1; None deletes nothing.
      pinned: steps to keep besides (the best so far).

    Returns:
      The steps deleted, oldest first.

    Raises:
      CheckpointError: if one cannot be deleted.
      ValueError: on a `keep` below 1.
    """
    check_keep(keep)
    if keep is None:
        return []
    root = absolute(directory)
    kept = set(pinned)
    deleted = []
    for checkpoint in scan(root)[:-keep]:
        if checkpoint.step in kept or not is_directory(checkpoint.path):
            continue
        trash = root / temporary_name("deleting", checkpoint.path.name)
        with one_line(
            f"old checkpoint {checkpoint.path} cannot be deleted", "newer checkpoints are intact"
        ):
            os.rename(checkpoint.path, trash)
            # On the disk before the files go, or a power cut could show a checkpoint without them.
            fsync_path(root)
            delete_tree(trash)
        deleted.append(checkpoint.step)
    return deleted
