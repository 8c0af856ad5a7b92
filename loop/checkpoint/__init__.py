"""Checkpoints: a run's explicit state, written durably, verified, restored strictly.

One directory a checkpoint, found by listing. See `directory.py` for the names, `manifest.py` for
what is in each, `saving.py` for the order of writing.
"""

from loop.checkpoint.asynchronous import AsynchronousSaver, Pause
from loop.checkpoint.comparison import changed, differences, environment
from loop.checkpoint.directory import (
    Checkpoint,
    check_writable,
    clean_orphans,
    retain,
    scan,
    set_aside,
)
from loop.checkpoint.files import CheckpointError, DamagedCheckpointError, StateMismatchError
from loop.checkpoint.manifest import Json
from loop.checkpoint.reading import read_manifest, verify
from loop.checkpoint.restoring import Restored, require_start, restore, restore_latest
from loop.checkpoint.saving import save
from loop.checkpoint.values import copy_to_host, state_sha256

__all__ = [
    "AsynchronousSaver",
    "Checkpoint",
    "CheckpointError",
    "DamagedCheckpointError",
    "Json",
    "Pause",
    "Restored",
    "StateMismatchError",
    "changed",
    "check_writable",
    "clean_orphans",
    "copy_to_host",
    "differences",
    "environment",
    "read_manifest",
    "require_start",
    "restore",
    "restore_latest",
    "retain",
    "save",
    "scan",
    "set_aside",
    "state_sha256",
    "verify",
]
