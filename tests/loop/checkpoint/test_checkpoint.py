"""Checkpoints: round trip, strictness, all or nothing, and what a step's name may hold."""

import hashlib
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from loop import checkpoint
from loop.variables import named


def make_state(seed: int) -> dict[str, tf.Variable]:
    """A state with one variable of each kind of dtype and rank, off zero."""
    rng = np.random.default_rng(seed)
    return {
        "model/kernel": tf.Variable(rng.normal(3.0, 2.0, (37, 11)).astype(np.float32)),
        "model/half": tf.Variable(tf.cast(rng.normal(1.0, 1.0, (5,)), tf.bfloat16)),
        "model/wide": tf.Variable(rng.normal(-1.0, 1.0, (2, 3, 4))),
        "model/empty": tf.Variable(np.zeros((0, 3), np.float32)),
        "optimizer/applied": tf.Variable(bool(seed % 2)),
        "optimizer/bytes": tf.Variable(rng.integers(0, 255, (6,)).astype(np.uint8)),
        "optimizer/complex": tf.Variable((rng.normal(size=3) + 1j).astype(np.complex64)),
        "global_step": tf.Variable(2**31 + seed, dtype=tf.int64),
    }


def test_round_trip_restores_every_bit(tmp_path: Path) -> None:
    """A state restored from its checkpoint has the same SHA-256, special values included."""
    saved, other = make_state(1), make_state(2)
    saved["model/wide"][0, 0].assign([np.nan, -0.0, np.inf, 5e-324])
    path = checkpoint.save(tmp_path, 7, saved, {"seed": 3, "configuration": {"rate": 0.1}})
    assert checkpoint.state_sha256(saved) != checkpoint.state_sha256(other)
    restored = checkpoint.restore_latest(tmp_path, other)
    assert restored is not None
    assert checkpoint.state_sha256(saved) == checkpoint.state_sha256(other)
    assert (restored.step, restored.path, restored.skipped) == (7, path, [])
    assert restored.metadata == {"seed": 3, "configuration": {"rate": 0.1}}
    assert checkpoint.verify(path) == []
    assert path.name == "checkpoint-000000000007"
    assert sorted(os.listdir(tmp_path)) == [path.name]


def test_tensorflow_reads_the_files(tmp_path: Path) -> None:
    """`tf.train.load_checkpoint` gives the variables under their names."""
    state = make_state(3)
    path = checkpoint.save(tmp_path, 1, state, {})
    reader = tf.train.load_checkpoint(str(path / "state"))
    assert set(reader.get_variable_to_shape_map()) == set(state)
    np.testing.assert_array_equal(reader.get_tensor("model/wide"), state["model/wide"].numpy())


def test_manifest_describes_files_and_variables(tmp_path: Path) -> None:
    """The manifest holds each file's real size and SHA-256 and each variable's dtype and shape."""
    state = make_state(4)
    path = checkpoint.save(tmp_path, 9, state, {})
    manifest = checkpoint.read_manifest(path)
    for name, entry in manifest.files.items():
        content = (path / name).read_bytes()
        assert (entry.bytes, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert set(os.listdir(path)) == {*manifest.files, "manifest.json"}
    assert {n: str(v) for n, v in manifest.variables.items()} == {
        n: f"{v.dtype.name}[{','.join(map(str, v.shape))}]" for n, v in state.items()
    }
    assert manifest.step == 9
    assert manifest.state_sha256 == checkpoint.state_sha256(state)


def test_state_sha256_follows_its_documented_order() -> None:
    """The hash is that of the documented bytes, written here a second time."""
    b = np.array([[1.5, -2.0, 3.0]], ">f4")
    state = {"b": tf.Variable(b.astype("<f4")), "a": tf.Variable(5, dtype=tf.int64)}
    expected = hashlib.sha256(
        b"a\0int64\0\0"
        + np.int64(5).tobytes()
        + b"b\0float32\0"
        + b"1,3\0"
        + b.astype("<f4").tobytes()
    ).hexdigest()
    assert checkpoint.state_sha256(state) == expected
    assert checkpoint.state_sha256({"a": np.array(5, "<i8"), "b": b}) == expected
    renamed = {"c": state["b"], "a": state["a"]}
    reshaped = {"b": tf.Variable(b.astype("<f4").reshape(3)), "a": state["a"]}
    assert len({checkpoint.state_sha256(s) for s in (state, renamed, reshaped)}) == 3


def test_copies_share_no_memory_with_the_variables() -> None:
    """Updates in place after the copy reach neither fresh nor reused copies."""
    variable = tf.Variable(np.random.default_rng(0).normal(2.0, 1.0, (64, 65)).astype(np.float32))
    state = {"w": variable}
    before = variable.numpy().copy()
    first = checkpoint.copy_to_host(state)
    read = tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)
    assert np.shares_memory(np.asarray(read), np.asarray(read))  # such a read is no copy,
    assert not np.shares_memory(np.asarray(read), first["w"])  # and this is none of it
    del read
    variable.assign_add(tf.ones_like(variable))
    variable.scatter_nd_update([[0, 0]], [99.0])
    np.testing.assert_array_equal(first["w"], before)
    first["w"][1, 1] = 1e9  # and the other way round
    assert variable.numpy()[1, 1] != 1e9
    second = checkpoint.copy_to_host(state, first)
    assert second["w"] is first["w"]
    after = variable.numpy().copy()
    variable.assign_sub(tf.ones_like(variable))
    np.testing.assert_array_equal(second["w"], after)


def test_restore_is_strict_both_ways_and_touches_nothing(tmp_path: Path) -> None:
    """One line names what is missing (with the closest), left over, and different; none is set."""
    path = checkpoint.save(tmp_path, 1, make_state(5), {})
    other = make_state(6)
    other["model/kernels"] = other.pop("model/kernel")
    other["model/half"] = tf.Variable(np.ones(5, np.float32))
    other["model/wide"] = tf.Variable(np.ones((2, 3, 5)))
    before = checkpoint.state_sha256(other)
    with pytest.raises(checkpoint.StateMismatchError) as raised:
        checkpoint.restore(path, other)
    message = str(raised.value)
    assert "\n" not in message
    for part in (
        str(path),
        "missing 'model/kernels' (it has 'model/kernel')",
        "left over 'model/kernel'",
        "'model/half': expected float32[5], found bfloat16[5]",
        "'model/wide': expected float64[2,3,5], found float64[2,3,4]",
    ):
        assert part in message
    assert checkpoint.state_sha256(other) == before
    with pytest.raises(checkpoint.StateMismatchError, match="left over"):
        checkpoint.restore_latest(tmp_path, {"global_step": tf.Variable(0, dtype=tf.int64)})


def test_a_step_is_never_written_twice(tmp_path: Path) -> None:
    """The same state under the same step stands as it is; another state is refused."""
    state = make_state(7)
    path = checkpoint.save(tmp_path, 5, state, {"run": 1})
    manifest = (path / "manifest.json").read_bytes()
    assert checkpoint.save(tmp_path, 5, state, {"run": 2}) == path
    assert (path / "manifest.json").read_bytes() == manifest
    state["global_step"].assign_add(1)
    with pytest.raises(checkpoint.CheckpointError, match="exists with another state"):
        checkpoint.save(tmp_path, 5, state, {})
    assert checkpoint.verify(path) == []


def test_an_older_step_is_not_written_beside_a_newer_one(tmp_path: Path) -> None:
    """A run that went back would be resumed from the abandoned future: refused, naming it."""
    state = make_state(8)
    checkpoint.save(tmp_path, 5, state, {})
    with pytest.raises(checkpoint.CheckpointError, match="step 5 is already there"):
        checkpoint.save(tmp_path, 4, state, {})
    assert [c.step for c in checkpoint.scan(tmp_path)] == [5]


def test_scan_knows_only_canonical_names(tmp_path: Path) -> None:
    """Steps sort as numbers past the padding; other names are no checkpoints."""
    for name in (
        "checkpoint-000000000002",
        "checkpoint-1000000000000",
        "checkpoint-999999999999",
        "checkpoint-0000000000003",
        "checkpoint-3",
        "checkpoint-9999999999999999999",
        ".writing-checkpoint-000000000004-00112233",
        "metrics.jsonl",
    ):
        (tmp_path / name).mkdir()
    assert [c.step for c in checkpoint.scan(tmp_path)] == [2, 10**12 - 1, 10**12]
    assert checkpoint.scan(tmp_path / "absent") == []


@pytest.mark.parametrize("step", [-1, 2**63, True])
def test_steps_out_of_range_are_refused(tmp_path: Path, step: int) -> None:
    """A step is an int64 count."""
    with pytest.raises(ValueError, match="step must be in"):
        checkpoint.save(tmp_path, step, make_state(0), {})


def test_states_that_cannot_be_stored_are_refused(tmp_path: Path) -> None:
    """Empty maps, strings, plain tensors and bad names raise before anything is written."""
    with pytest.raises(ValueError, match="at least one variable"):
        checkpoint.save(tmp_path, 1, {}, {})
    with pytest.raises(TypeError, match=r"state\['s'\]: a string variable"):
        checkpoint.save(tmp_path, 1, {"s": tf.Variable("x")}, {})
    with pytest.raises(TypeError, match=r"state\['t'\]: expected a tf.Variable"):
        checkpoint.save(tmp_path, 1, {"t": tf.ones(2)}, {})
    with pytest.raises(ValueError, match="without NUL"):
        checkpoint.save(tmp_path, 1, {"a\0b": tf.Variable(1)}, {})
    for value in (float("nan"), {1, 2}, object()):
        with pytest.raises(TypeError, match=r"metadata\['rate'\]: expected JSON"):
            checkpoint.save(tmp_path, 1, make_state(0), {"rate": value})
    assert os.listdir(tmp_path) == []


def test_orphans_are_cleaned_and_nothing_else(tmp_path: Path) -> None:
    """Half-written and half-deleted directories go; links with such names and the rest stay."""
    outside = tmp_path / "outside"
    run = tmp_path / "run"
    run.mkdir()
    outside.mkdir()
    (outside / "precious").write_text("kept")
    path = checkpoint.save(run, 1, make_state(1), {})
    for name in (
        ".writing-checkpoint-000000000002-00aa11bb",
        ".deleting-checkpoint-000000000000-00aa11bc",
        ".writing-checkpoint-probe-00aa11bd",
    ):
        (run / name).mkdir()
        (run / name / "state.index").write_text("half")
    (run / ".writing-checkpoint-000000000002-00aa11bb" / "link").symlink_to(outside)
    (run / ".writing-checkpoint-000000000009-00aa11be").symlink_to(outside)
    (run / ".writing-notes").mkdir()
    assert len(checkpoint.clean_orphans(run)) == 3
    assert sorted(os.listdir(run)) == [
        ".writing-checkpoint-000000000009-00aa11be",
        ".writing-notes",
        path.name,
    ]
    assert (outside / "precious").read_text() == "kept"


def test_names_that_keras_numbers_anew_are_said_to_be_that(tmp_path: Path) -> None:
    """A cell run twice makes layers of other numbers: the line names the layers' names as the way.

    Another model, whose names or shapes differ in more, is told to restore with its own.
    """

    def state(units: int = 3) -> dict[str, tf.Variable]:
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units)])
        optimizer = keras.optimizers.Adam(0.1)
        optimizer.build(model.trainable_variables)
        return named({"model": model, "optimizer": optimizer})

    checkpoint.save(tmp_path, 3, state(), {})
    with pytest.raises(
        checkpoint.StateMismatchError,
        match=r"numbers that Keras gives .*name the layers, or call keras.utils.clear_session",
    ) as error:
        checkpoint.restore_latest(tmp_path, state())
    assert "\n" not in str(error.value)
    with pytest.raises(checkpoint.StateMismatchError, match=r"optimizer that wrote it$"):
        checkpoint.restore_latest(tmp_path, state(units=5))


def test_start_in_a_used_directory(tmp_path: Path) -> None:
    """A filled directory without a checkpoint stops all but a fresh run, a valid one stops that."""
    checkpoint.require_start(tmp_path / "absent")
    (tmp_path / "run.lock").write_text("")
    checkpoint.require_start(tmp_path, known={"run.lock"})
    with pytest.raises(checkpoint.CheckpointError, match=r"found run\.lock"):
        checkpoint.require_start(tmp_path)
    checkpoint.require_start(tmp_path, fresh=True)
    path = checkpoint.save(tmp_path, 3, make_state(1), {})
    with pytest.raises(checkpoint.CheckpointError, match="holds a valid checkpoint of step 3"):
        checkpoint.require_start(tmp_path, fresh=True)
    (path / "state.index").unlink()
    with pytest.raises(checkpoint.CheckpointError, match=path.name):
        checkpoint.require_start(tmp_path, known={"run.lock"})
    checkpoint.require_start(tmp_path, known={"run.lock"}, fresh=True)
    assert checkpoint.scan(tmp_path) == []
    with pytest.raises(checkpoint.CheckpointError, match="damaged-checkpoint"):
        checkpoint.require_start(tmp_path, known={"run.lock"})
    checkpoint.save(tmp_path, 1, make_state(2), {})


def test_retention_keeps_the_last_and_the_pinned(tmp_path: Path) -> None:
    """All but the newest k and the pinned steps are deleted, oldest first."""
    state = {"w": tf.Variable(1.0)}
    for step in (1, 2, 3, 10, 20):
        checkpoint.save(tmp_path, step, state, {})
    assert checkpoint.retain(tmp_path, None) == []
    assert checkpoint.retain(tmp_path, 2, pinned=[2]) == [1, 3]
    assert sorted(c.step for c in checkpoint.scan(tmp_path)) == [2, 10, 20]
    assert len(os.listdir(tmp_path)) == 3
    for keep in (0, -1, True):
        with pytest.raises(ValueError, match="keep must be"):
            checkpoint.retain(tmp_path, keep)


def test_metadata_differences_name_what_changed() -> None:
    """Nested values are compared leaf by leaf, types included, and named with dots."""
    saved = {"a": {"rate": 0.1, "on": True, "shape": [1, 2]}, "seed": 1, "gone": None, "empty": {}}
    now = {"a": {"rate": 0.2, "on": 1, "shape": (1, 2)}, "seed": 1, "new": "x", "empty": {}}
    assert checkpoint.differences(saved, now) == [
        "a.on: saved True, now 1",
        "a.rate: saved 0.1, now 0.2",
        "gone: saved None, now nothing",
        "new: saved nothing, now 'x'",
    ]
    assert checkpoint.changed(saved, now) == ["a.on", "a.rate", "gone", "new"]
    assert checkpoint.differences(now, now) == []
    (line,) = checkpoint.differences({"evaluations": list(range(1000))}, {"evaluations": []})
    assert len(line) < 300
    assert line.startswith("evaluations: saved [0, 1, 2, ")
    assert line.endswith("..., now []")
    here = checkpoint.environment()
    assert here["tensorflow"] == tf.__version__
    assert here["intra_op_threads"] >= 1


def test_files_are_on_the_disk_before_they_have_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file and the temporary directory are forced to the disk, then renamed, then the parent.

    The real calls run; they are only noted. No kill can show this, only a power cut.
    """
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(descriptor: int) -> None:
        calls.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def noted_rename(source: Path, target: Path) -> None:
        calls.append(f"rename {target.name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    run = tmp_path / "run"
    path = checkpoint.save(run, 1, make_state(1), {})
    placed = calls.index(f"rename {path.name}")
    assert {"fsync manifest.json", "fsync state.index", "fsync state.data-00000-of-00001"} < set(
        calls[:placed]
    )
    assert calls[placed - 1].startswith("fsync .writing-checkpoint-000000000001-")
    assert calls[placed + 1 :] == ["fsync run"]
    calls.clear()
    checkpoint.save(run, 2, make_state(2), {})
    calls.clear()
    checkpoint.retain(run, 1)
    assert calls[0].startswith("rename .deleting-checkpoint-000000000001-")
    assert calls[1:] == ["fsync run"]
