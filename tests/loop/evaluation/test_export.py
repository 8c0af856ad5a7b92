"""A SavedModel computes what the model does, in a process that has no model."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import loop
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


_RNG = np.random.default_rng(3)


def test_equal_infinities_and_strings_are_equal(tmp_path):
    """A class masked by -inf and a label's name are exported, and computed by the SavedModel."""
    dense = loop.layers.Dense(4, 3, name="d", seed=0)
    names = tf.constant(["cat", "dog", "emu"])

    def function(x):
        logits = dense(x)
        return {
            "logits": tf.where([True, True, False], logits, -np.inf),
            "label": tf.gather(names, tf.argmax(logits, -1)),
            "number": tf.argmax(logits, -1),
            "wave": tf.complex(logits, -logits),
            "half": tf.cast(logits, tf.bfloat16),
        }

    x = _RNG.normal(size=(9, 4)).astype(np.float32)
    serve = tf.saved_model.load(
        str(_exported(tmp_path / "model", function, {"x": x[:5]}, dense))
    ).signatures["serving_default"]
    expected, found = function(x), serve(x=tf.constant(x))
    assert np.isneginf(found["logits"][:, 2]).all()
    assert found["label"].numpy().tolist() == expected["label"].numpy().tolist()
    assert len(set(found["label"].numpy().tolist())) > 1


def _exported(path, function, inputs, state, **options):
    differences = export(path, function, inputs, state, **options)
    assert max(differences.values()) < 1e-4, differences
    return path


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda logits, n: {"y": logits * (1.0 + 1e-3 * n)}, "'y' differs by 0.001"),
        (lambda logits, n: {"y": tf.where(logits > n - 1.0, logits, -np.inf)}, "by inf"),
        (lambda logits, n: {"y": tf.where(logits > n, np.inf, -np.inf)}, "by inf"),
        (lambda logits, n: {"y": tf.strings.as_string(tf.round(logits) + n)}, "by 1 of values"),
        (lambda logits, n: {"y": tf.argmax(logits, -1) + 50_000 + int(n)}, "expected at most 0;"),
        (lambda logits, n: {"y": tf.complex(logits, logits + n)}, "'y' differs"),
        (
            lambda logits, n: {"y": logits[:, : 3 - int(n)]},
            r"has shape \[5, 2\], expected \[5, 3\]",
        ),
    ],
)
def test_outputs_that_differ_are_refused_whatever_they_are(tmp_path, change, named):
    """A value, an infinity, a string, an integer, an imaginary part or a shape is compared."""
    dense = loop.layers.Dense(4, 3, name="d", seed=0)

    def function(x):
        return change(dense(x), 0.0 if tf.executing_eagerly() else 1.0)

    x = _RNG.normal(size=(5, 4)).astype(np.float32)
    with pytest.raises(ExportError, match=named) as error:
        export(tmp_path / "model", function, {"x": x}, dense)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_nan_is_said_to_be(tmp_path):
    """NaN equals nothing, so the export cannot be compared: the line says whose they are."""
    with pytest.raises(ExportError, match=r"the model's own 'output' is NaN in 1 of 3 values"):
        export(tmp_path / "m", lambda x: tf.math.log(x), {"x": np.array([1.0, -1.0, 2.0])}, [])


def test_the_sizes_that_a_keras_model_leaves_open_stay_open(tmp_path):
    """A GRU exported with 6 tokens answers for all of 9, in one input or two by name."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    weight = keras.Input((None, 2), name="weight")
    hidden = keras.layers.Embedding(9, 4)(ids)
    both = keras.layers.Concatenate()([hidden, weight])
    one = keras.Sequential(
        [keras.Input((None,), dtype="int32"), keras.layers.Embedding(9, 4), keras.layers.GRU(3)]
    )
    two = keras.Model({"ids": ids, "weight": weight}, keras.layers.GRU(3)(both))
    tokens = _RNG.integers(0, 9, (2, 9)).astype(np.int32)
    weights = _RNG.normal(size=(2, 9, 2)).astype(np.float32)
    cases = {
        "one": (one, lambda ids: {"h": one(ids)}, {"ids": tokens}),
        "two": (
            two,
            lambda ids, weight: {"h": two({"ids": ids, "weight": weight})},
            {"ids": tokens, "weight": weights},
        ),
    }
    for name, (model, function, inputs) in cases.items():
        short = {key: value[:, :6] for key, value in inputs.items()}
        path = _exported(tmp_path / name, function, short, {"model": model})
        serve = tf.saved_model.load(str(path)).signatures["serving_default"]
        tensors = {key: tf.constant(value) for key, value in inputs.items()}
        found, expected = serve(**tensors)["h"], function(**tensors)["h"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        cut = function(**{key: tf.constant(value) for key, value in short.items()})["h"]
        assert not np.allclose(found, cut, atol=1e-3)


def test_a_signature_says_what_is_free_and_other_sizes_are_refused(tmp_path):
    """Free axes by `input_signature`; without one a fixed axis refuses what it would cut."""
    cell = keras.layers.GRU(3)
    cell.build((None, None, 4))
    x = _RNG.normal(size=(2, 9, 4)).astype(np.float32)
    free = {"x": tf.TensorSpec([None, None, 4])}
    path = _exported(
        tmp_path / "free", lambda x: cell(x), {"x": x[:, :6]}, cell, input_signature=free
    )
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    np.testing.assert_allclose(serve(x=tf.constant(x))["output"], cell(x), rtol=1e-5, atol=1e-6)
    path = _exported(tmp_path / "fixed", lambda x: cell(x), {"x": x[:, :6]}, cell)
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[2,9,4\] is not compatible"):
        serve(x=tf.constant(x))
    one = {"x": tf.TensorSpec([2, 6, 4]), "scale": tf.TensorSpec([])}
    inputs = {"x": x[:, :6], "scale": 3.0}
    _exported(tmp_path / "one", lambda x, scale: cell(x) * scale, inputs, cell, input_signature=one)


@pytest.mark.parametrize(
    ("signature", "named"),
    [
        ({"y": tf.TensorSpec([None, 4])}, r"expected to name the inputs x, found y"),
        ({"x": tf.TensorSpec([None, 5])}, r"'x' expected the shape \(None, 5\) .* found \(3, 4\)"),
        ({"x": tf.TensorSpec([None, 4], tf.string)}, r"'x' expected to be TensorSpec.*string"),
    ],
)
def test_a_signature_that_does_not_fit_is_refused(tmp_path, signature, named):
    """Another name, shape or dtype than the example batch's is one line, before any tracing."""
    x = _RNG.normal(size=(3, 4)).astype(np.float32)
    with pytest.raises(ValueError, match=named):
        export(tmp_path / "m", lambda x: x, {"x": x}, [], input_signature=signature)


def test_a_function_that_cannot_take_a_free_axis_is_refused_with_the_way(tmp_path):
    """It says the shapes it was traced for, the reason, and that a signature chooses them."""
    x = _RNG.normal(size=(3, 4)).astype(np.float32)
    with pytest.raises(ExportError, match=r"traced for x float32\(None, 4\).*input_signature"):
        export(tmp_path / "m", lambda x: tf.zeros([x.shape[0] * 2]), {"x": x}, [])
    assert list(tmp_path.iterdir()) == []
