"""A NaN in an evaluation and a prediction, with oneDNN's fusions and without."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import loop
from loop.compiled import fusion
from loop.feeds import Arrays

_MODES = ("eager", "graph", "xla")


def _found():
    """Whether fusions hide a NaN here; by mode what an evaluation and a prediction give."""
    rng = np.random.default_rng(0)
    first = loop.layers.Dense(8, 16, name="first", seed=0)
    last = loop.layers.Dense(16, 3, name="last", seed=0)
    kernel = tf.Variable(rng.normal(size=(3, 3, 2, 4)).astype(np.float32))
    x = rng.normal(size=(32, 8)).astype(np.float32)
    image = rng.normal(size=(32, 5, 5, 2)).astype(np.float32)
    x[3, 2] = image[20, 1, 1, 1] = np.nan
    feed = Arrays({"x": x, "image": image}, batch_size=8)

    def function(batch):
        dense = last(tf.nn.relu(first(batch["x"])))
        convolved = tf.nn.conv2d(batch["image"], kernel, 1, "SAME") + tf.ones([4])
        return {
            "dense": tf.reduce_sum(dense, 1),
            "convolution": tf.reduce_sum(tf.nn.relu6(convolved), [1, 2, 3]),
        }

    single, found = loop.distribute.single(), {}
    for mode in _MODES:
        results = loop.Evaluation(function, feed).compiled(mode, single)()
        outputs = loop.Prediction(function, feed, mode, single)()
        rows = {name: np.flatnonzero(np.isnan(value)).tolist() for name, value in outputs.items()}
        found[mode] = [{name: str(value) for name, value in results.items()}, rows]
    # A graph outside keeps its fusions.
    return {"hides": fusion.hides_nan(), "modes": found}


@pytest.mark.parametrize("onednn", ["0", "1"])
def test_a_nan_is_one_in_every_mode(onednn):
    """Matrix product and convolution before a ReLU: NaN for the mean, and for its examples."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.loop.compiled.test_fusion"],
        cwd=pathlib.Path(__file__).parents[3],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    for mode in _MODES:
        results, rows = found["modes"][mode]
        assert results == {"dense": "nan", "convolution": "nan"}, mode
        assert rows == {"dense": [3], "convolution": [20]}, mode
    assert run.stderr.count("evaluation: 'dense', 'convolution' not finite\n") == 3
    assert run.stderr.count("prediction: 'dense' of 1 of 32 examples is not finite\n") == 3
    if onednn == "0":
        assert not found["hides"]


def test_the_options_of_calls_are_put_back():
    """Also where the call raises; only the remapper differs inside."""
    here = fusion.context.context()
    before = here.function_call_options
    kept = before.config_proto_serialized

    def fail():
        with fusion.unfused():
            config = fusion.config_pb2.ConfigProto.FromString(
                here.function_call_options.config_proto_serialized
            )
            assert config.graph_options.rewrite_options.remapping == 2
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert here.function_call_options is before
    assert before.config_proto_serialized == kept


if __name__ == "__main__":
    print(json.dumps(_found()))
