"""Batches of any structure: the same run as of a dict, from every kind of feed."""

import collections
import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

import loop
from loop import optimizers
from loop.feeds import Arrays, Dataset, Records, ResumableIterator
from loop.feeds.nest import named_leaves, rebuilt
from tests.loop import steps
from tests.loop.feeds import feed_runs
from tests.loop.feeds.test_iterator import Drawn

Point = collections.namedtuple("Point", ["x", "y"])

_SHAPES = {
    "tuple": (lambda x, y: (x, y), lambda batch: batch),
    "named tuple": (Point, lambda batch: (batch.x, batch.y)),
    "dicts": (lambda x, y: ({"in": {"x": x}}, {"y": y}), lambda b: (b[0]["in"]["x"], b[1]["y"])),
}


def _step(net, taken):
    def loss_fn(batch):
        x, y = taken(batch)
        return steps.squared_errors(net)({"x": x, "y": y})

    return loop.GradientStep(loss_fn, net.trainable_variables, optimizers.Adam(0.02))


def _arrays(shape, tmp_path):
    del tmp_path
    data = feed_runs.data()
    return Arrays(shape(data["x"], data["y"]), batch_size=feed_runs.BATCH, seed=5)


def _dataset(shape, tmp_path):
    del tmp_path
    data = feed_runs.data()
    examples = tf.data.Dataset.from_tensor_slices(shape(data["x"], data["y"]))
    return Dataset(examples.repeat().batch(feed_runs.BATCH, drop_remainder=True))


def _iterator(shape, tmp_path):
    del tmp_path

    class Shaped(Drawn):
        def __next__(self):
            batch = super().__next__()
            return shape(batch["x"], batch["y"])

    return ResumableIterator(Shaped(), batch_size=feed_runs.BATCH)


def _records(shape, tmp_path):
    data, path = feed_runs.data(), str(tmp_path / "shard")
    with tf.io.TFRecordWriter(path) as writer:
        for x, y in zip(data["x"], data["y"], strict=True):
            writer.write(np.append(x, y).astype(np.float32).tobytes())

    def parse(serialized):
        numbers = tf.reshape(tf.io.decode_raw(serialized, tf.float32), [-1, 6])
        return shape(numbers[:, :5], numbers[:, 5])

    return Records([path], parse, batch_size=feed_runs.BATCH, seed=5)


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("make", [_arrays, _dataset, _iterator, _records])
def test_a_run_on_a_nest_is_that_on_a_dict(make, shape, tmp_path):
    """Tuples, named tuples, tuples of dicts of dicts: the step gets it, and trains to the bit."""
    as_dict = (lambda x, y: {"x": x, "y": y}, lambda batch: (batch["x"], batch["y"]))
    states = []
    for built, taken in (as_dict, _SHAPES[shape]):
        net = steps.Net(dropout=0.3, dtype=tf.float32)
        with loop.Trainer(
            step=_step(net, taken),
            feed=make(built, tmp_path),
            state={"net": net},
            compile="graph",
            steps_per_call=3,
        ) as run:
            run.train(until=7)
            states.append(steps.values(run.state))
    assert steps.same(*states)


def test_accumulation_precision_and_examination_take_a_nest():
    """Micro-batches of a tuple in bfloat16; a NaN in its second array is named."""
    data = feed_runs.data()
    y = data["y"].copy()
    y[20] = np.nan
    net = steps.Net(dtype=tf.float32)
    step = loop.GradientStep(
        lambda batch: tf.square(
            tf.cast(net(batch[0], training=True), tf.float32) - tf.cast(batch[1][0], tf.float32)
        ),
        net.trainable_variables,
        optimizers.SGD(0.01),
        accumulate=2,
        precision="mixed_bfloat16",
    )
    feed = Arrays((data["x"], (y,)), batch_size=feed_runs.BATCH, shuffle=False)
    trainer = loop.Trainer(step=step, feed=feed, state={"net": net}, compile="graph")
    with pytest.raises(loop.NonFiniteError, match=r"not finite in the batch: '1/0' of examples 20"):
        trainer.train(until=5)
    assert int(trainer.global_step) == 2


def test_leaves_have_their_paths_for_names():
    """Keys, fields and indices; a list of numbers is one leaf, a list of arrays is a tuple."""
    x = np.zeros(2)
    nest = {"a": (x, [x, {"b": [1, 2]}]), "p": Point(x, x)}
    structure, leaves = named_leaves(nest)
    assert list(leaves) == ["a/0", "a/1/0", "a/1/1/b", "p/x", "p/y"]
    assert leaves["a/1/1/b"] == [1, 2]
    back = rebuilt(structure, dict(zip(leaves, range(5), strict=True)))
    assert back == {"a": (0, (1, {"b": 2})), "p": Point(3, 4)}
    structure, leaves = named_leaves(x)
    assert list(leaves) == ["batch"]
    assert rebuilt(structure, {"batch": 3}) == 3


def test_taking_a_nest_apart_keeps_nothing_alive():
    """A batch's memory is free as soon as its last name is gone, not at the next collection."""
    gc.disable()
    try:
        batch = {"a": np.zeros(3)}
        gone = weakref.ref(batch["a"])
        named_leaves(batch)
        del batch
        assert gone() is None
    finally:
        gc.enable()
