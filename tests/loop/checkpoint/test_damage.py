"""Damaged and hostile checkpoints: named, walked back over, and nothing outside is touched."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from loop import checkpoint
from loop.checkpoint.manifest import decode

FILES = ("manifest.json", "state.index", "state.data-00000-of-00001")


def make_state(seed: int) -> dict[str, tf.Variable]:
    """A small state, another one for each seed."""
    rng = np.random.default_rng(seed)
    return {
        "kernel": tf.Variable(rng.normal(3.0, 2.0, (40, 7)).astype(np.float32)),
        "step": tf.Variable(seed, dtype=tf.int64),
    }


def damage(path: Path, rng: np.random.Generator) -> str:
    """Damages one random file of a checkpoint and says which."""
    name = FILES[rng.integers(len(FILES))]
    content = bytearray((path / name).read_bytes())
    kind = rng.integers(5)
    if kind == 0:
        (path / name).unlink()
    elif kind == 1:
        (path / name).write_bytes(content[: rng.integers(len(content))])
    elif kind == 2:
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        (path / name).write_bytes(content)
    elif kind == 3:
        (path / name).write_bytes(content + rng.bytes(rng.integers(1, 9)))
    else:
        start = rng.integers(len(content))
        zeros = bytes(len(content) - start)
        if content[start:] == zeros:
            zeros = b"\1" * len(zeros)
        (path / name).write_bytes(content[:start] + zeros)
    return name


def test_random_damage_is_named_and_walked_back(tmp_path: Path) -> None:
    """Every one of 60 damages is found, its file named, and the good checkpoint before restored."""
    rng = np.random.default_rng(20260)
    for trial in range(60):
        run = tmp_path / str(trial)
        checkpoint.save(run, 1, make_state(1), {})
        newest = checkpoint.save(run, 2, make_state(2), {})
        name = damage(newest, rng)
        assert any(name in problem for problem in checkpoint.verify(newest)), (trial, name)
        state = make_state(3)
        restored = checkpoint.restore_latest(run, state)
        assert restored is not None
        assert restored.step == 1
        assert checkpoint.state_sha256(state) == checkpoint.state_sha256(make_state(1))
        (line,) = restored.skipped
        assert str(newest) in line
        assert name in line
        assert "\n" not in line
        assert [c.step for c in checkpoint.scan(run)] == [1]
        # The run goes on from step 1 and writes step 2 again; the damaged one is kept aside.
        checkpoint.save(run, 2, make_state(2), {})
        assert sum(entry.startswith("damaged-") for entry in os.listdir(run)) == 1


def test_none_sound_raises_and_sets_nothing(tmp_path: Path) -> None:
    """With only damaged checkpoints the run stops, one line names each, and the state is as was."""
    for step in (1, 2):
        path = checkpoint.save(tmp_path, step, make_state(step), {})
        (path / FILES[step]).unlink()
    state = make_state(9)
    before = checkpoint.state_sha256(state)
    with pytest.raises(checkpoint.CheckpointError) as raised:
        checkpoint.restore_latest(tmp_path, state)
    message = str(raised.value)
    assert "\n" not in message
    assert "state.index: missing" in message
    assert "state.data-00000-of-00001: missing" in message
    assert checkpoint.state_sha256(state) == before
    assert [c.step for c in checkpoint.scan(tmp_path)] == [1, 2]


def test_saving_over_a_damaged_step_sets_it_aside(tmp_path: Path) -> None:
    """A damaged checkpoint of the very step does not stand in the way and is not deleted."""
    path = checkpoint.save(tmp_path, 4, make_state(4), {})
    (path / "state.index").write_bytes(b"")
    assert checkpoint.save(tmp_path, 4, make_state(4), {}) == path
    assert checkpoint.verify(path) == []
    assert sum(entry.startswith("damaged-") for entry in os.listdir(tmp_path)) == 1


def forge(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrites a manifest with its own SHA-256 right, as an attacker would."""

    def text(value: Any) -> bytes:
        return (json.dumps(value, sort_keys=True, indent=2) + "\n").encode()

    body = json.loads((path / "manifest.json").read_bytes())["manifest"]
    change(body)
    forged = {"manifest": body, "sha256": hashlib.sha256(text(body)).hexdigest()}
    (path / "manifest.json").write_bytes(text(forged))


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "..", ".", "a/b", "", "manifest.json", "x\n"]
)
def test_file_names_that_leave_the_checkpoint_are_refused(tmp_path: Path, name: str) -> None:
    """A manifest that names a path, absolute or upward, is refused before any file is opened."""
    path = checkpoint.save(tmp_path / "run", 1, make_state(1), {})
    (tmp_path / "run" / "outside").write_bytes(b"secret")
    entry = {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    forge(path, lambda body: body["files"].update({name: entry}))
    (problem,) = checkpoint.verify(path)
    assert "is refused" in problem
    assert (tmp_path / "run" / "outside").read_bytes() == b"secret"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda body: body.update(format_version=2), "format version 2, expected 1"),
        (lambda body: body.update(step=2), "of step 2, in a directory named"),
        (lambda body: body.update(step=-1), "step: expected a count"),
        (lambda body: body.update(extra=1), "expected the fields"),
        (lambda body: body.pop("metadata"), "expected the fields"),
        (lambda body: body["files"].pop("state.index"), "expected the files"),
        (lambda body: body["files"].update(more={"bytes": 1, "sha256": "0" * 64}), "the files"),
        (lambda body: body["files"].update({"state.index": 5}), "expected a size and a SHA-256"),
        (lambda body: body["variables"].update(step=[1]), "expected a dtype and a shape"),
        (lambda body: body["variables"]["step"].update(dtype="float99"), "float99"),
        (lambda body: body["variables"]["step"].update(dtype="float64"), "state.index: "),
        (lambda body: body["variables"]["step"].update(dtype="resource"), "state.index: "),
        (lambda body: body["variables"]["kernel"].update(shape=[2**40]), "the manifest says"),
        (lambda body: body["variables"].update(k={"dtype": "int8", "shape": []}), "state.index: "),
        (lambda body: body["variables"].pop("kernel"), "holds values with SHA-256"),
        (lambda body: body.update(variables=[]), "variables: expected an object"),
        (lambda body: body.update(state_sha256="0" * 64), "holds values with SHA-256"),
    ],
)
def test_forged_manifests_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], problem: str
) -> None:
    """Each lie in a manifest whose own hash is right is found, in one line."""
    path = checkpoint.save(tmp_path, 1, make_state(1), {})
    forge(path, change)
    found = checkpoint.verify(path)
    assert len(found) == 1
    assert problem in found[0]
    assert "\n" not in found[0]


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b" " * (17 * 2**20), b"1" * 5000],
    ids=["empty", "object", "list", "null", "deep", "binary", "huge", "long number"],
)
def test_files_that_are_no_manifest(tmp_path: Path, content: bytes) -> None:
    """Anything else in the manifest's place is named in one line, without a traceback."""
    path = checkpoint.save(tmp_path, 1, make_state(1), {})
    (path / "manifest.json").write_bytes(content)
    (problem,) = checkpoint.verify(path)
    assert problem.startswith("manifest.json: ")
    with pytest.raises(checkpoint.DamagedCheckpointError):
        checkpoint.restore(path, make_state(1))


def test_forged_indexes_are_refused(tmp_path: Path) -> None:
    """An index with a flipped bit and a right SHA-256 in the manifest still cannot be restored."""
    rng = np.random.default_rng(5)
    original = make_state(1)
    path = checkpoint.save(tmp_path, 1, original, {})
    content = (path / "state.index").read_bytes()
    for _ in range(40):
        forged = bytearray(content)
        forged[rng.integers(len(forged))] ^= 1 << rng.integers(8)
        (path / "state.index").write_bytes(forged)
        entry = {"bytes": len(forged), "sha256": hashlib.sha256(forged).hexdigest()}
        forge(path, lambda body, entry=entry: body["files"].update({"state.index": entry}))
        state = make_state(2)
        before = checkpoint.state_sha256(state)
        message = ""
        try:
            checkpoint.restore(path, state)
        except checkpoint.CheckpointError as error:
            message = str(error)
        assert "\n" not in message
        # Without an error the bit was in bytes that the format does not use.
        expected = before if message else checkpoint.state_sha256(original)
        assert checkpoint.state_sha256(state) == expected


def test_links_and_pipes_are_refused(tmp_path: Path) -> None:
    """A symbolic link or a pipe in a file's place, and a linked checkpoint, are refused."""
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    path = checkpoint.save(run, 1, make_state(1), {})
    outside = checkpoint.save(elsewhere, 2, make_state(2), {})
    for name in FILES:
        original = (path / name).read_bytes()
        (path / name).unlink()
        (tmp_path / "copy").write_bytes(original)
        (path / name).symlink_to(tmp_path / "copy")
        assert checkpoint.verify(path) == [f"{name}: a symbolic link: refused"]
        (path / name).unlink()
        os.mkfifo(path / name)
        assert checkpoint.verify(path) == [f"{name}: not a regular file: refused"]
        (path / name).unlink()
        (path / name).write_bytes(original)
    (run / "checkpoint-000000000002").symlink_to(outside)
    (run / "checkpoint-000000000000").symlink_to(outside)
    state = make_state(3)
    restored = checkpoint.restore_latest(run, state)
    assert restored is not None
    assert restored.step == 1
    assert "a symbolic link, not a directory: refused" in restored.skipped[0]
    assert checkpoint.retain(run, 1) == []  # a link is nothing of ours to delete
    assert checkpoint.verify(outside) == []


def test_no_bit_of_a_manifest_can_flip_unnoticed(tmp_path: Path) -> None:
    """Each byte of the manifest with one bit flipped is refused: metadata and white space too."""
    metadata = {"seed": 3, "configuration": {"rate": 0.1, "name": "a"}}
    path = checkpoint.save(tmp_path, 1, make_state(1), metadata)
    content = (path / "manifest.json").read_bytes()
    assert decode(content).metadata == metadata
    bits = np.random.default_rng(0).integers(8, size=len(content))
    for place, bit in enumerate(bits):
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        with pytest.raises(ValueError, match=r"manifest\.json: "):
            decode(bytes(flipped))
