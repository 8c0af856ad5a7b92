"""A run's directory: its checkpoints, found by listing, and what an interrupted run left behind.

    checkpoint-000000000200/                   a complete checkpoint
    .writing-checkpoint-000000000200-1f2e3d4c/   being written; an orphan once its writer is dead
    .deleting-checkpoint-000000000100-5a6b7c8d/  being deleted; an orphan once its writer is dead
    damaged-checkpoint-000000000200-9e8f7a6b/  set aside: found damaged, kept for its owner to see

There is no pointer file: a name is either there or not, and renames are atomic. Nothing here
follows a symbolic link or touches a name that is not in this list.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import operator
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from loop.checkpoint.files import fsync_path, one_line

_CHECKPOINT = re.compile(r"checkpoint-(\d{12,19})")
_ORPHAN = re.compile(r"\.(writing|deleting)-checkpoint-(\d{12,19}|probe)-[0-9a-f]{8}")
_SET_ASIDE = re.compile(r"damaged-checkpoint-(\d{12,19})-[0-9a-f]{8}")


@dataclasses.dataclass(frozen=True, order=True)
class Checkpoint:
    """A checkpoint in a run's directory, not yet verified.

    Attributes:
      step: the global step in its name.
      path: its directory, absolute.
    """

    step: int
    path: Path


def absolute(directory: str | os.PathLike[str]) -> Path:
    """An absolute path without `..`; symbolic links above the run's directory are the user's."""
    return Path(os.path.abspath(directory))


def checkpoint_name(step: int) -> str:
    """The name of a step's checkpoint.

    Raises:
      ValueError: if the step is not in [0, 2**63).
      TypeError: if it is no integer.
    """
    number = operator.index(step)
    if isinstance(step, bool) or not 0 <= number < 2**63:
        raise ValueError(f"checkpoint: step must be in [0, 2**63), got {step!r}")
    return f"checkpoint-{number:012d}"


def step_of(name: str) -> int | None:
    """The step in a checkpoint's name; None for any other name."""
    match = _CHECKPOINT.fullmatch(name)
    if match is None:
        return None
    step = int(match[1])
    # One step has one name: a longer one with more zeros would be a second checkpoint of it.
    return step if step < 2**63 and checkpoint_name(step) == name else None


def temporary_name(kind: str, name: str) -> str:
    """A fresh orphan's name: `kind` is "writing" or "deleting", `name` a checkpoint's."""
    return f".{kind}-{name}-{secrets.token_hex(4)}"


def scan(directory: str | os.PathLike[str]) -> list[Checkpoint]:
    """The checkpoints in a directory by step, oldest first, by their names only.

    Returns:
      Possibly damaged ones too (`verify` tells); nothing for a directory that does not exist.

    Raises:
      CheckpointError: if the directory cannot be listed.
    """
    root = absolute(directory)
    with one_line(f"checkpoints in {root} cannot be listed", "check the path and its permissions"):
        try:
            names = os.listdir(root)
        except FileNotFoundError:
            return []
    found = ((step_of(name), name) for name in names)
    return sorted(Checkpoint(step, root / name) for step, name in found if step is not None)


def is_directory(path: Path) -> bool:
    """Whether a path is a directory itself, not a symbolic link to one."""
    return path.is_dir() and not path.is_symlink()


def delete_tree(path: Path) -> None:
    """Deletes a directory inside a run's directory; links inside it are removed, not followed."""
    shutil.rmtree(path)


def clean_orphans(directory: str | os.PathLike[str]) -> list[str]:
    """Deletes what a killed run left half-written or half-deleted; call it holding the run's lock.

    Returns:
      The names deleted, sorted.

    Raises:
      CheckpointError: if one cannot be deleted.
    """
    root = absolute(directory)
    with one_line(f"orphans in {root} cannot be cleaned", "check the directory's permissions"):
        names = sorted(os.listdir(root)) if root.exists() else []
        orphans = [n for n in names if _ORPHAN.fullmatch(n) and is_directory(root / n)]
        for name in orphans:
            delete_tree(root / name)
    return orphans


def set_aside(path: Path) -> Path:
    """Renames a damaged checkpoint so that it is never found again; its files stay to be looked at.

    Returns:
      Its new path.

    Raises:
      CheckpointError: if it cannot be renamed.
    """
    target = path.parent / f"damaged-{path.name}-{secrets.token_hex(4)}"
    with one_line(f"damaged {path} cannot be set aside", "check the directory's permissions"):
        os.rename(path, target)
        fsync_path(path.parent)
    return target


def check_writable(directory: str | os.PathLike[str]) -> None:
    """Makes the directory if needed and proves that a checkpoint can be written there.

    Raises:
      CheckpointError: read-only, no permission, not a directory, full.
    """
    root = absolute(directory)
    with one_line(
        f"directory {root} cannot be written", "choose another directory or mend its permissions"
    ):
        root.mkdir(parents=True, exist_ok=True)
        probe = root / temporary_name("writing", "checkpoint-probe")
        probe.mkdir()
        probe.rmdir()


def unknown_entries(directory: str | os.PathLike[str], known: Collection[str] = ()) -> list[str]:
    """What in a directory is neither ours (by name) nor one of `known`, sorted.

    Args:
      directory: the run's.
      known: names, or patterns as the shell's: `events.*`.
    """
    root = absolute(directory)
    names = os.listdir(root) if root.exists() else []
    ours: Iterable[str] = (
        n
        for n in names
        if step_of(n) is not None or _ORPHAN.fullmatch(n) or _SET_ASIDE.fullmatch(n)
    )
    others = set(names) - set(ours)
    return sorted(n for n in others if not any(fnmatch.fnmatchcase(n, one) for one in known))


def damaged_entries(directory: str | os.PathLike[str]) -> list[str]:
    """The names of the checkpoints that were set aside, sorted."""
    root = absolute(directory)
    names = os.listdir(root) if root.exists() else []
    return sorted(name for name in names if _SET_ASIDE.fullmatch(name))


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
