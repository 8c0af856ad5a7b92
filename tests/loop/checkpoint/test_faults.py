"""Checkpoints under faults caused for real: kills, full disks, directories without permission."""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from loop import checkpoint
from loop.run.lock import RunLock, RunLockError

ROOT = Path(__file__).resolve().parents[3]
NOBODY = 65534


def make_state(seed: int) -> dict[str, tf.Variable]:
    """About 100 kB, another state for each seed."""
    rng = np.random.default_rng(seed)
    return {
        "kernel": tf.Variable(rng.normal(3.0, 2.0, (250, 100)).astype(np.float32)),
        "step": tf.Variable(seed, dtype=tf.int64),
    }


def test_kills_during_saves_lose_nothing() -> None:
    """The torture of saves, a few of each kind: every kill, damage and full disk is survived."""
    command = [
        sys.executable,
        "-m",
        "tests.torture.saves",
        "--kills=6",
        "--damages=12",
        "--limits=8",
    ]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("  ") for line in done.stdout.splitlines()[1:]]
    assert len(rows) >= 4
    for row in rows:
        name, tried, survived, lost = [cell.strip() for cell in row if cell.strip()]
        assert (survived, lost) == (tried, "0"), name
        assert int(tried) >= 6, name


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, share: float) -> None:
    """A file that cannot grow stops the save in one line; the earlier one is whole, no orphans."""
    good = checkpoint.save(tmp_path, 1, make_state(1), {})
    state = make_state(2)
    size = (good / "state.data-00000-of-00001").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size), before[1]))
    try:
        with pytest.raises(checkpoint.CheckpointError) as raised:
            checkpoint.save(tmp_path, 2, state, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = str(raised.value)
    assert "\n" not in message
    assert "checkpoint of step 2" in message
    assert "earlier checkpoints are intact" in message
    assert os.listdir(tmp_path) == [good.name]
    assert checkpoint.verify(good) == []
    checkpoint.save(tmp_path, 2, state, {})
    assert len(checkpoint.scan(tmp_path)) == 2


@pytest.fixture
def without_permission() -> Iterator[Path]:
    """A directory with a checkpoint that this process, while the test runs, may read only."""
    base = Path(tempfile.mkdtemp())
    base.chmod(0o755)
    directory = base / "run"
    checkpoint.save(directory, 1, make_state(1), {})
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    if user == 0:  # root may write anywhere: be another user
        os.seteuid(NOBODY)
    try:
        yield directory
    finally:
        os.seteuid(user)
        for path in (directory, *directory.rglob("*")):
            path.chmod(0o755)
        shutil.rmtree(base)


def test_read_only_directory_is_noticed_before_the_first_step(without_permission: Path) -> None:
    """The check, the lock, a save and cleaning raise one line with the reason; reading works."""
    directory = without_permission
    with pytest.raises(checkpoint.CheckpointError, match="cannot be written: Permission denied"):
        checkpoint.check_writable(directory)
    with pytest.raises(RunLockError, match=r"cannot be taken: Permission denied \[EACCES\]"):
        RunLock(directory).acquire()
    with pytest.raises(checkpoint.CheckpointError, match=r"step 2 in .*Permission denied"):
        checkpoint.save(directory, 2, make_state(2), {})
    with pytest.raises(checkpoint.CheckpointError, match="cannot be set aside"):
        checkpoint.set_aside(directory / "checkpoint-000000000001")
    state = make_state(3)
    restored = checkpoint.restore_latest(directory, state)
    assert restored is not None
    assert restored.step == 1


def test_unreadable_checkpoint_is_no_damage(without_permission: Path) -> None:
    """A file without read permission stops the run: an older checkpoint would be no answer."""
    directory = without_permission
    nobody = os.geteuid()
    owner = directory.stat().st_uid
    os.seteuid(owner)
    (directory / "checkpoint-000000000001" / "state.index").chmod(0)
    os.seteuid(nobody)
    with pytest.raises(checkpoint.CheckpointError, match="cannot be read: Permission") as raised:
        checkpoint.restore_latest(directory, make_state(3))
    assert not isinstance(raised.value, checkpoint.DamagedCheckpointError)
    assert "cannot be read" in checkpoint.verify(directory / "checkpoint-000000000001")[0]


def test_directory_that_is_a_file(tmp_path: Path) -> None:
    """A file in the directory's place is named."""
    (tmp_path / "run").write_text("")
    for action in (checkpoint.check_writable, checkpoint.scan):
        with pytest.raises(checkpoint.CheckpointError, match=r"run.* cannot be"):
            action(tmp_path / "run")
