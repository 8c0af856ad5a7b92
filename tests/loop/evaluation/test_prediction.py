"""Outputs for a whole data set, in order, without the padding."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from loop import distribute
from loop.evaluation.prediction import Prediction
from loop.feeds import Arrays, Dataset
from tests.loop import steps

_SIZE = 37


def _function(net):
    def outputs(batch):
        return {
            "output": net(batch["x"], training=False),
            "half": tf.cast(batch["x"], tf.bfloat16),
            "number": batch["number"],
        }

    return outputs


def _feed(**options):
    data = {"x": steps.arrays(_SIZE)["x"], "number": np.arange(_SIZE)}
    return Arrays(data, batch_size=8, **options), data


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_outputs_come_in_order_and_without_padding(mode):
    """37 examples in batches of 8 give the 37 outputs of the whole array, in one trace, again."""
    net = steps.Net(dropout=0.5)
    feed, data = _feed()
    prediction = Prediction(_function(net), feed, mode, distribute.single())
    for factor in (1.0, -2.0):
        net.out.kernel.assign(net.out.kernel * factor)
        found = prediction()
        expected = net(tf.constant(data["x"]), training=False).numpy()
        np.testing.assert_allclose(found["output"], expected, rtol=1e-10)
        np.testing.assert_array_equal(found["number"], np.arange(_SIZE))
        assert found["half"].dtype == np.float32
        np.testing.assert_allclose(found["half"], data["x"], rtol=5e-3)
    assert prediction.traces == (mode != "eager")


def test_a_feed_that_streams_gives_the_same():
    """A tf.data.Dataset, read in chunks of 16 batches and a partial one, comes in its order."""
    net = steps.Net()
    data = {"x": steps.arrays(150)["x"], "number": np.arange(150)}

    def make(seed, start_step):
        del seed, start_step
        return tf.data.Dataset.from_tensor_slices(data).batch(8)

    found = Prediction(_function(net), Dataset(make, batch_size=8), "graph", distribute.single())()
    np.testing.assert_array_equal(found["number"], np.arange(150))
    expected = net(tf.constant(data["x"]), training=False).numpy()
    np.testing.assert_allclose(found["output"], expected, rtol=1e-10)


@pytest.mark.parametrize("value", [lambda x: tf.reduce_mean(x), lambda x: x[:2]])
def test_an_output_that_is_not_one_an_example_is_refused(value):
    """A mean over a padded batch cannot be cut back."""
    feed, _ = _feed()
    prediction = Prediction(
        lambda batch: {"mean": value(batch["x"])}, feed, "graph", distribute.single()
    )
    with pytest.raises(ValueError, match=r"'mean' has shape .*; expected one row an example"):
        prediction()


def _replicas_main():
    replicas = distribute.mirrored(virtual_devices=3)
    with replicas.scope():
        net = steps.Net()
    feed, data = _feed()
    single = net(tf.constant(data["x"]), training=False).numpy()
    for mode in ("graph", "xla"):
        found = Prediction(_function(net), feed, mode, replicas)()
        np.testing.assert_array_equal(found["number"], np.arange(_SIZE))
        np.testing.assert_allclose(found["output"], single, rtol=1e-10)


def test_three_replicas_give_the_same_order():
    """Batches of 8 on 3 virtual CPUs, each slice padded to 3, come back whole."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.loop.evaluation.test_prediction"],
        cwd=pathlib.Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-2000:]


if __name__ == "__main__":
    _replicas_main()
