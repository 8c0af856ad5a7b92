"""A run's directory: what is one run, and what is another."""

import json
import logging

import pytest
import tensorflow as tf

import loop
from loop import checkpoint
from loop.run import lock
from loop.run.directory import ConfigurationChangedError, RunDirectory

_EXACTNESS = {"compile": "graph", "replicas": 1}
_SETTINGS = {"optimizer": "adam", "schedule": {"rate": 0.1, "steps": [1, 2]}}


def _state(value=1.5):
    return {"w": tf.Variable([value, -value], name="w"), "global_step": loop.GlobalStep(0).variable}


def _saved(path, step=7, **options):
    """A run that saved one checkpoint."""
    directory = RunDirectory(path, configuration=_SETTINGS, **options)
    state = _state()
    assert directory.open(state, _EXACTNESS, seed=3) is None
    state["global_step"].assign(step)
    directory.save(step)
    directory.close()


def _open(path, *, configuration=_SETTINGS, exactness=_EXACTNESS, seed=3, state=None, **options):
    directory = RunDirectory(path, configuration=configuration, **options)
    state = _state(0.0) if state is None else state
    try:
        return directory.open(state, exactness, seed=seed), state
    finally:
        directory.close()


def test_the_same_run_goes_on(tmp_path, caplog):
    """The same settings restore the newest state, and nothing is warned of."""
    _saved(tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        restored, state = _open(tmp_path / "run")
    assert restored is not None
    assert state["w"].numpy().tolist() == [1.5, -1.5]
    assert int(state["global_step"].numpy()) == 7
    assert not caplog.records


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"configuration": {**_SETTINGS, "optimizer": "sgd"}}, ["optimizer", "adam", "sgd"]),
        (
            {"configuration": {**_SETTINGS, "schedule": {"rate": 0.2, "steps": [1, 2]}}},
            ["0.1", "0.2"],
        ),
        ({"configuration": {"optimizer": "adam"}}, ["schedule"]),
        ({"configuration": {**_SETTINGS, "clip": 1.0}}, ["clip"]),
        ({"seed": 4}, ["seed", "3", "4"]),
    ],
)
def test_changed_settings_are_refused_or_named(tmp_path, caplog, options, named):
    """Another setting, or seed, stops in one line that names it; `allow_change` warns instead."""
    _saved(tmp_path)
    with pytest.raises(ConfigurationChangedError) as error:
        _open(tmp_path, **options)
    message = str(error.value)
    assert all(part in message for part in [*named, str(tmp_path), "--allow_change"])
    assert "\n" not in message
    with caplog.at_level(logging.WARNING):
        restored, _ = _open(tmp_path, allow_change=True, **options)
    assert restored is not None
    assert named[0] in caplog.text


def test_another_compile_mode_is_told_but_not_refused(tmp_path, caplog):
    """What only bit-exactness depends on is one warning, with both values."""
    _saved(tmp_path)
    with caplog.at_level(logging.WARNING):
        restored, _ = _open(tmp_path, exactness={**_EXACTNESS, "compile": "xla"})
    assert restored is not None
    (record,) = caplog.records
    assert "not bit-exact" in record.message
    assert "graph" in record.message
    assert "xla" in record.message


def test_the_lock_is_held_and_given_back(tmp_path):
    """A second run of the directory is refused while the first is open, and not after."""
    first = RunDirectory(tmp_path)
    first.open(_state(), _EXACTNESS, seed=0)
    with pytest.raises(lock.RunLockError):
        _open(tmp_path)
    first.close()
    assert _open(tmp_path)[0] is None


def test_foreign_files_are_not_taken_for_a_run(tmp_path):
    """A directory with something else in it is refused; the caller's own files are not."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(checkpoint.CheckpointError, match=r"thesis\.txt"):
        _open(tmp_path)
    assert _open(tmp_path, known=["thesis.txt"])[0] is None
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_state_that_does_not_fit_is_refused(tmp_path):
    """A missing or an additional variable is named; nothing is restored in part."""
    _saved(tmp_path)
    state = {**_state(0.0), "extra": tf.Variable(2.0)}
    with pytest.raises(checkpoint.CheckpointError, match="extra"):
        _open(tmp_path, state=state)
    assert state["w"].numpy().tolist() == [0.0, 0.0]
    del state["extra"], state["w"]
    with pytest.raises(checkpoint.CheckpointError, match="w"):
        _open(tmp_path, state=state)


def test_only_the_newest_are_kept(tmp_path):
    """`keep` bounds what stays; the newest are what stays."""
    directory = RunDirectory(tmp_path, keep=2)
    state = _state()
    directory.open(state, _EXACTNESS, seed=0)
    for step in (1, 2, 5, 9):
        state["global_step"].assign(step)
        directory.save(step)
    directory.close()
    assert [found.step for found in checkpoint.scan(tmp_path)] == [5, 9]
    with pytest.raises(ValueError, match="keep"):
        RunDirectory(tmp_path, keep=0)


def test_settings_and_environment_are_stored(tmp_path):
    """The checkpoint's metadata says with which settings, seed and versions it was made."""
    _saved(tmp_path)
    metadata = checkpoint.read_manifest(checkpoint.scan(tmp_path)[0].path).metadata
    assert metadata["configuration"] == {"seed": 3, **_SETTINGS}
    assert metadata["exactness"]["compile"] == "graph"
    assert metadata["exactness"].keys() > _EXACTNESS.keys()
    assert tf.__version__ in json.dumps(metadata["exactness"])
