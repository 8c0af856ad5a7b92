"""Saving in the background: what is written, in which order, and where its errors arrive."""

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from loop import checkpoint
from loop.checkpoint import asynchronous


def make_state(seed: int) -> dict[str, tf.Variable]:
    """Some 2 MB, so that a write takes a moment."""
    rng = np.random.default_rng(seed)
    return {
        "kernel": tf.Variable(rng.normal(3.0, 2.0, (500, 1000)).astype(np.float32)),
        "step": tf.Variable(seed, dtype=tf.int64),
    }


def test_updates_during_the_write_do_not_reach_it(tmp_path: Path) -> None:
    """Each checkpoint holds the state at its save, though training went on at once."""
    state = make_state(1)
    expected = {}
    with checkpoint.AsynchronousSaver(tmp_path) as saver:
        for step in range(1, 6):
            expected[step] = checkpoint.state_sha256(state)
            pause = saver.save(step, state, {"step": step})
            assert pause.copy_seconds > 0
            assert pause.wait_seconds >= 0
            state["kernel"].assign_add(tf.ones_like(state["kernel"]))
            state["step"].assign_add(1)
    assert [c.step for c in checkpoint.scan(tmp_path)] == [1, 2, 3, 4, 5]
    for found in checkpoint.scan(tmp_path):
        assert checkpoint.verify(found.path) == []
        manifest = checkpoint.read_manifest(found.path)
        assert manifest.state_sha256 == expected[found.step]
        assert manifest.metadata == {"step": found.step}


def test_one_write_is_in_flight_and_poll_gives_it(tmp_path: Path) -> None:
    """A second save waits for the first; poll gives each finished checkpoint once."""
    state = make_state(1)
    saver = checkpoint.AsynchronousSaver(tmp_path, keep=1)
    assert saver.poll() is None
    saver.save(1, state, {})
    writers = [t for t in threading.enumerate() if t.name.startswith("write checkpoint-")]
    assert len(writers) <= 1
    saver.save(2, state, {}, pinned=[1])
    assert (tmp_path / "checkpoint-000000000001" / "manifest.json").exists()
    while saver.in_flight:
        time.sleep(0.001)
    assert saver.poll() == tmp_path / "checkpoint-000000000002"
    assert saver.poll() is None
    assert sorted(c.step for c in checkpoint.scan(tmp_path)) == [1, 2]
    saver.save(3, state, {})
    assert saver.close() == tmp_path / "checkpoint-000000000003"
    assert saver.close() is None
    assert [c.step for c in checkpoint.scan(tmp_path)] == [3]
    with pytest.raises(RuntimeError, match="save after close"):
        saver.save(4, state, {})


@pytest.mark.parametrize("where", ["save", "poll", "close", "with"])
def test_an_error_of_the_writer_stops_the_run_at_the_next_call(tmp_path: Path, where: str) -> None:
    """The writer's error is raised in the training thread, once, whichever call comes next."""
    state = make_state(1)
    run = tmp_path / "run"
    run.write_text("a file where the directory should be")
    saver = checkpoint.AsynchronousSaver(run)

    def provoke() -> None:
        saver.save(1, state, {})
        while saver.in_flight:
            time.sleep(0.001)
        if where == "save":
            saver.save(2, state, {})
        elif where == "poll":
            saver.poll()
        elif where == "close":
            saver.close()

    def provoke_within() -> None:
        with saver:
            provoke()

    with pytest.raises(checkpoint.CheckpointError, match="checkpoint of step 1"):
        (provoke_within if where == "with" else provoke)()
    assert saver.close() is None
    assert os.listdir(tmp_path) == ["run"]


def test_an_error_under_way_is_not_hidden_by_the_writers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Leaving through another error raises that one and logs the writer's."""
    run = tmp_path / "run"
    run.write_text("")

    def train() -> None:
        with checkpoint.AsynchronousSaver(run) as saver:
            saver.save(1, make_state(1), {})
            raise ZeroDivisionError

    with caplog.at_level(logging.ERROR), pytest.raises(ZeroDivisionError):
        train()
    assert "checkpoint of step 1" in caplog.text


def test_bad_arguments_raise_in_the_calling_thread(tmp_path: Path) -> None:
    """Step, state, metadata and keep are refused before a thread starts."""
    with pytest.raises(ValueError, match="keep must be"):
        checkpoint.AsynchronousSaver(tmp_path, keep=0)
    with checkpoint.AsynchronousSaver(tmp_path) as saver:
        with pytest.raises(ValueError, match="step must be in"):
            saver.save(-1, make_state(1), {})
        with pytest.raises(TypeError, match="expected JSON"):
            saver.save(1, make_state(1), {"x": float("inf")})
        with pytest.raises(TypeError, match=r"expected a tf\.Variable"):
            saver.save(1, {"x": tf.ones(3)}, {})
    assert os.listdir(tmp_path) == []


def test_all_writes_are_of_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread for each write would leave its heap behind: memory would grow by each checkpoint."""
    threads = set()

    def noted(*arguments: Any) -> Path:
        threads.add(threading.get_ident())
        return write(*arguments)

    write = asynchronous.write
    monkeypatch.setattr(asynchronous, "write", noted)
    with checkpoint.AsynchronousSaver(tmp_path) as saver:
        for step in (1, 2, 3):
            saver.save(step, make_state(step), {})
            saver.wait()
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert [found.step for found in checkpoint.scan(tmp_path)] == [1, 2, 3]
