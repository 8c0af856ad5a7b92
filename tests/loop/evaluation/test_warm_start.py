"""A warm start takes over what fits, and says what it did."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import loop
from loop import checkpoint
from loop.checkpoint.directory import checkpoint_name
from loop.evaluation.warm_start import warm_start
from loop.variables import named
from tests.loop import steps


def _saved(tmp_path, step=7, seed=1):
    net = steps.Net(units=4, dtype=tf.float32, seed=seed)
    net.norm.moving_mean.assign([0.1, -0.2, 0.3, 0.4])
    more = {"net/old": tf.Variable([2.0]), "momentum": tf.Variable([1.0])}
    state = {**named({"net": net}), **more}
    checkpoint.save(tmp_path, step, state, {})
    return state


def test_what_has_the_same_name_and_shape_is_set(tmp_path):
    """A model of another input size keeps its first kernel and takes the rest, to the bit."""
    saved = _saved(tmp_path)
    net = steps.Net(inputs=6, units=4, dtype=tf.float32, seed=9)
    state = named({"net": net, "extra": tf.Variable([5.0])})
    before = steps.values(state)
    report = warm_start(tmp_path, state)
    assert (report.step, report.path.name) == (7, checkpoint_name(7))
    assert report.missing == ["extra"]
    assert report.different == ["'net/dense/kernel' is float32[6, 4], there float32[5, 4]"]
    assert report.left_over == ["net/old"]
    assert set(report.matched) == state.keys() - {"extra", "net/dense/kernel"}
    for name, variable in state.items():
        expected = saved[name].numpy() if name in report.matched else before[name]
        np.testing.assert_array_equal(variable.numpy(), expected)
    assert not np.array_equal(before["net/out/kernel"], state["net/out/kernel"].numpy())
    assert report.lines() == [
        f"warm start from {report.path}, step 7: {len(report.matched)} variables set",
        "  1 not in the checkpoint: extra",
        "  1 of another shape or kind: 'net/dense/kernel' is float32[6, 4], there float32[5, 4]",
        "  1 left over in the checkpoint: net/old",
    ]


def test_owners_are_taken_as_a_trainer_takes_them(tmp_path):
    """A mapping of owners, a list of them or one owner has the names of a trainer's `state=`."""

    def owners(kind, seed):
        net = steps.Net(units=4, dtype=tf.float32, seed=seed)
        optimizer = loop.optimizers.Adam(0.1)
        optimizer.build(net.trainable_variables)
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2, name="out")], name="m")
        every = {
            "mapping": {"net": net, "optimizer": optimizer, "inner": {"keras": [model]}},
            "list": [net, model],
            "one": net,
        }
        return net, every[kind]

    for kind in ("mapping", "list", "one"):
        run = tmp_path / kind
        net, state = owners(kind, seed=1)
        feed = loop.feeds.Arrays(steps.arrays(dtype=np.float32), batch_size=8)
        step = loop.GradientStep(
            steps.squared_errors(net), net.trainable_variables, loop.optimizers.SGD(0.1)
        )
        with loop.Trainer(
            step=step, feed=feed, state=state, directory=run, compile="graph"
        ) as trainer:
            trainer.train(until=2)
        fresh, state = owners(kind, seed=9)
        report = warm_start(run, state)
        assert (report.step, report.missing, report.different) == (2, [], [])
        assert len(report.matched) >= len(named(net))
        assert steps.same(steps.values(named(fresh)), steps.values(named(net)))
    with pytest.raises(TypeError, match="cannot tell the variables of object"):
        warm_start(tmp_path / "one", {"net": object()})


def test_floats_are_cast_and_other_kinds_are_not(tmp_path):
    """A float32 checkpoint starts a float64 model; an integer is no weight."""
    saved = _saved(tmp_path)
    net = steps.Net(units=4, dtype=tf.float64, seed=9)
    state = named({"net": net, "momentum": tf.Variable([3])})
    report = warm_start(tmp_path / checkpoint_name(7), state)
    assert report.different == ["'momentum' is int32[1], there float32[1]"]
    kernel = state["net/out/kernel"].numpy()
    assert kernel.dtype == np.float64
    np.testing.assert_array_equal(kernel, saved["net/out/kernel"].numpy().astype(np.float64))


def test_the_newest_sound_checkpoint_is_taken_and_none_is_an_error(tmp_path):
    """A damaged newest one is passed over; no match, no checkpoint, only damaged ones are named."""
    run = tmp_path / "run"
    saved = _saved(run, step=5, seed=1)
    _saved(run, step=9, seed=2)
    with pytest.raises(checkpoint.CheckpointError, match="none of the 1 variables to start from"):
        warm_start(run, {"other": tf.Variable([1.0])})
    for path in (run / checkpoint_name(9)).iterdir():
        if path.suffix != ".json":
            path.write_bytes(b"x")
    state = named({"net": steps.Net(units=4, dtype=tf.float32, seed=3)})
    assert warm_start(run, state).step == 5
    np.testing.assert_array_equal(state["net/out/kernel"].numpy(), saved["net/out/kernel"].numpy())
    for path in (run / checkpoint_name(5)).iterdir():
        path.write_bytes(b"x")
    with pytest.raises(checkpoint.CheckpointError, match="2 damaged"):
        warm_start(run, state)
    with pytest.raises(checkpoint.CheckpointError, match="manifest"):
        warm_start(tmp_path, state)
