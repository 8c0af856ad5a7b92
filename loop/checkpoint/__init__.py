"""Checkpoints: a run's explicit state, written durably, verified, restored strictly.

One directory a checkpoint, found by listing. See `directory.py` for the names, `manifest.py` for
what stands in each, `save.py` for the order of writing.
"""

from loop.checkpoint.directory import (
    Checkpoint,
    check_writable,
    clean_orphans,
    scan,
    set_aside,
)
from loop.checkpoint.errors import CheckpointError, DamagedCheckpointError, StateMismatchError
from loop.checkpoint.restore import Restored, restore, restore_latest
from loop.checkpoint.save import save
from loop.checkpoint.start import require_start
from loop.checkpoint.state import copy_to_host, state_sha256
from loop.checkpoint.verify import verify

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "DamagedCheckpointError",
    "Restored",
    "StateMismatchError",
    "check_writable",
    "clean_orphans",
    "copy_to_host",
    "require_start",
    "restore",
    "restore_latest",
    "save",
    "scan",
    "set_aside",
    "state_sha256",
    "verify",
]
