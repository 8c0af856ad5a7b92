"""The trace holds the operations of exactly the steps asked for."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

import loop
from loop import optimizers
from loop.actions.profile import Profile
from loop.feeds import Arrays
from tests.loop import steps


def _train(directory, first, last, *, ends):
    weight = tf.Variable(np.ones(3, np.float32), name="weight")
    optimizer = optimizers.SGD(1e-4)

    def loss(batch):
        return tf.reduce_sum(tf.math.sinh(batch["x"] * weight), -1)

    calls = []
    trainer = loop.Trainer(
        step=loop.GradientStep(loss, [weight], optimizer),
        feed=Arrays({"x": steps.arrays(16, inputs=3, dtype=np.float32)["x"]}, batch_size=4),
        state={"weight": weight, "optimizer": optimizer},
        compile="graph",
        actions=[Profile(first, last, directory)],
        writers=[lambda rows: calls.append(len(rows))],
    )
    for until in ends:
        trainer.train(until=until)
    return np.cumsum(calls).tolist()


def _operations(directory):
    """How often each kind of operation ran, from the trace's own records."""
    (path,) = directory.glob("plugins/profile/*/*.xplane.pb")
    space = xplane_pb2.XSpace.FromString(path.read_bytes())
    kinds = collections.Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                kinds[name.rpartition(":")[2]] += 1
    return kinds


def test_the_trace_is_of_the_steps_asked_for(tmp_path):
    """Steps 5 to 11 of 20: six forward passes are in the trace, and calls are cut there."""
    ends = _train(tmp_path, 5, 11, ends=[20])
    assert {5, 11, 20} <= set(ends)
    assert _operations(tmp_path)["Sinh"] == 6


@pytest.mark.parametrize(("ends", "traced"), [([8], 3), ([5, 20], 6)])
def test_training_that_ends_inside_or_is_called_again(tmp_path, ends, traced):
    """A run that ends before the last step ends the trace; one that goes on at the first does."""
    _train(tmp_path, 5, 11, ends=ends)
    assert _operations(tmp_path)["Sinh"] == traced


def test_steps_out_of_order_are_refused():
    """The first step compiles, and a trace of nothing is none."""
    for first, last in ((0, 5), (5, 5), (6, 5)):
        with pytest.raises(ValueError, match="expected 1 <= first < last"):
            Profile(first, last, "anywhere")
