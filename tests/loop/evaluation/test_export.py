"""A SavedModel computes what the model does, in a process that has no model."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from loop import distribute
from loop.averaging import ema
from loop.evaluation.export import ExportError, export
from tests.loop import steps

_SERVE = """
import sys
import numpy as np
import tensorflow as tf

serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
x = np.load(sys.argv[2])
np.save(sys.argv[3], serve(x=tf.constant(x))["output"].numpy())
"""


def _net():
    net = steps.Net(dropout=0.4, dtype=tf.float32)
    net.norm.moving_mean.assign([0.1, 0.2, -0.3, 0.4])
    return net


def test_another_process_computes_the_same(tmp_path):
    """Loaded without our packages, on another batch size, the outputs are the model's."""
    net = _net()
    x = steps.arrays(9, dtype=np.float32)["x"]
    differences = export(tmp_path / "model", lambda x: net(x, training=False), {"x": x[:4]}, net)
    assert differences.keys() == {"output"}
    assert 0 <= differences["output"] < 1e-5
    np.save(tmp_path / "x.npy", x)
    arguments = [str(tmp_path / name) for name in ("model", "x.npy", "y.npy")]
    run = subprocess.run(
        [sys.executable, "-c", _SERVE, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr[-1000:]
    found = np.load(tmp_path / "y.npy")
    np.testing.assert_allclose(found, net(tf.constant(x), training=False), rtol=1e-5, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "x.npy", "y.npy"]


def test_the_average_is_exported_inside_the_swap(tmp_path):
    """Within `swapped` the SavedModel holds the averages, and keeps them after it."""
    net = _net()
    average = ema.WeightEMA(0.9)
    average.build(net.trainable_variables)
    for variable in net.trainable_variables:
        variable.assign(variable * 2.0)
    x = steps.arrays(4, dtype=np.float32)["x"]
    with average.swapped(distribute.single()):
        expected = net(tf.constant(x), training=False).numpy()
        export(tmp_path / "model", lambda x: net(x, training=False), {"x": x}, net)
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    np.testing.assert_allclose(serve(x=tf.constant(x))["output"], expected, rtol=1e-5)
    assert not np.allclose(net(tf.constant(x), training=False), expected, rtol=1e-2)


def test_a_keras_model_is_exported_too(tmp_path):
    """A Keras model with two outputs by name."""
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3), keras.layers.Dropout(0.5)])
    x = steps.arrays(4, dtype=np.float32)["x"]

    def function(x):
        logits = model(x, training=False)
        return {"logits": logits, "label": tf.argmax(logits, -1)}

    assert export(tmp_path / "model", function, {"x": x}, model)["label"] == 0.0


def test_a_faulty_export_never_stands_under_its_name(tmp_path):
    """A function whose output depends on anything else is refused and nothing is left."""
    net = _net()
    x = steps.arrays(4, dtype=np.float32)["x"]
    traced = []

    def drifting(x):
        traced.append(None)
        return net(x, training=False) + 0.5 * len(traced)

    with pytest.raises(ExportError, match=r"reloaded model's 'output' differs by .*, expected at"):
        export(tmp_path / "model", drifting, {"x": x}, net)
    other = tf.Variable(2.0)
    with pytest.raises(ExportError, match=r"could not be written .*`state` owns every variable"):
        export(tmp_path / "model", lambda x: net(x, training=False) * other, {"x": x}, net)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "model").mkdir()
    with pytest.raises(ExportError, match="exists already"):
        export(tmp_path / "model", lambda x: net(x, training=False), {"x": x}, net)
    with pytest.raises(ValueError, match="'x' is a scalar"):
        export(tmp_path / "other", lambda x: x, {"x": 1.0}, net)
