"""Whether a run may start at step 0 in a directory."""

from __future__ import annotations

import os
from collections.abc import Collection

from loop.checkpoint.directory import absolute, damaged_entries, scan, set_aside, unknown_entries
from loop.checkpoint.errors import CheckpointError
from loop.checkpoint.verification import verify


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
