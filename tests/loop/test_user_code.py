"""What is wrong with a user's own function or argument is one line that says how to mend it."""

import math
import re
import sys
import traceback

import keras
import numpy as np
import pytest
import tensorflow as tf

import kernels
import loop

_RNG = np.random.default_rng(0)
_X = _RNG.normal(size=(64, 4)).astype(np.float32)
_Y = _RNG.integers(0, 3, 64).astype(np.int32)
_KERAS = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])


def _cross_entropy(model):
    return lambda batch: kernels.softmax_cross_entropy(batch["y"], model(batch["x"]))


def _train(loss=None, *, rate=0.1, mode="graph", arrays=None, step=None, **options):
    """Two steps of a small model; `loss` is given the model's own loss function and the batch."""
    model = loop.layers.Dense(4, 3, name="d", seed=0)
    own = _cross_entropy(model)
    if step is None:
        optimizer = options.pop("optimizer", None) or loop.optimizers.SGD(rate)
        variables = options.pop("variables", model.trainable_variables)
        clip = options.pop("clip", None)
        loss_fn = own if loss is None else lambda batch: loss(own, batch)
        loss_fn = options.pop("loss_fn", loss_fn)
        step = loop.GradientStep(loss_fn, variables, optimizer, clip=clip)
    feed = loop.feeds.Arrays(arrays or {"x": _X, "y": _Y}, batch_size=8)
    with loop.Trainer(step=step, feed=feed, state={"m": model}, compile=mode, **options) as run:
        run.train(until=2)


def _evaluate(function):
    feed = loop.feeds.Arrays({"x": _X}, batch_size=8)
    loop.Evaluation(function, feed).compiled("graph", loop.distribute.single())()


def _predict(function):
    feed = loop.feeds.Arrays({"x": _X}, batch_size=8)
    loop.Prediction(function, feed, "graph", loop.distribute.single())()


def _vector_rate(step):
    return tf.stack([0.1, tf.cast(step, tf.float32)])


def _numpy_rate(step):
    return np.cos(step)


_HERE = re.escape(__file__)
_CASES = {
    "a learning rate with a Python if": (
        lambda: _train(rate=lambda step: 0.1 if step < 1 else 0.01),
        TypeError,
        rf"schedule: the function <lambda> at {_HERE}:\d+: a tensor is used as a Python value at "
        rf"{_HERE}:\d+ in <lambda>.*use tf.where",
    ),
    "a learning rate with math.cos": (
        lambda: _train(rate=lambda step: 0.1 * math.cos(step)),
        TypeError,
        rf"<lambda> at {_HERE}:\d+: a tensor of the compiled step is given to Python or NumPy at "
        r".*must be real number.*use TensorFlow's function",
    ),
    "a learning rate with np.cos": (
        lambda: _train(rate=_numpy_rate),
        (TypeError, NotImplementedError),
        rf"_numpy_rate at {_HERE}:\d+: a tensor of the compiled step is given to Python or NumPy",
    ),
    "a learning rate that is a vector": (
        lambda: _train(rate=_vector_rate),
        ValueError,
        r"_vector_rate at .* expected to return a scalar, found one of \(2,\)",
    ),
    "a learning rate of None": (
        lambda: _train(rate=lambda _: None),
        TypeError,
        r"schedule: the function <lambda> at .* expected to return a number, found None",
    ),
    "a column of strings under XLA": (
        lambda: _train(mode="xla", arrays={"x": _X, "y": _Y, "id": np.array(["a"] * 64)}),
        ValueError,
        r"compile=xla: 'id' holds strings, expected numbers.*use compile='graph'",
    ),
    "an operation that XLA lacks": (
        lambda: _train(lambda own, b: own(b) + tf.cast(tf.timestamp(), tf.float32), mode="xla"),
        ValueError,
        rf"compile=xla: XLA has no kernel for Timestamp, made at {_HERE}:\d+ in <lambda>; use",
    ),
    "a loss as a dict": (
        lambda: _train(lambda own, b: {"loss": own(b)}),
        TypeError,
        r"loss_fn expected to return a loss.*found a dict of 'loss'; return loss, or loss, \{",
    ),
    "a loss function without return": (
        lambda: _train(lambda *_: None),
        TypeError,
        r"loss_fn expected to return a loss, .*, found None; return",
    ),
    "three values": (
        lambda: _train(lambda own, b: (own(b), own(b), {})),
        TypeError,
        r"loss_fn expected to return .*, found a tuple of 3; return",
    ),
    "metrics that are no dict": (
        lambda: _train(lambda own, b: (own(b), own(b))),
        TypeError,
        r"loss_fn expected to return .*, found \(float32\(8,\), float32\(8,\)\); return",
    ),
    "a metric of None": (
        lambda: _train(lambda own, b: (own(b), {"a": None})),
        TypeError,
        r"loss_fn expected 'a' to be one real number an example, \(8,\), or a scalar, found None",
    ),
    "a loss of strings": (
        lambda: _train(lambda own, b: tf.strings.as_string(own(b))),
        TypeError,
        r"expected 'loss' to be one real number an example.*found string\(8,\)",
    ),
    "a loss of two axes": (
        lambda: _train(lambda own, b: own(b)[:, None] * tf.ones([1, 3])),
        ValueError,
        r"'loss' has shape \(8, 3\); expected one value an example, \(8,\), or a scalar",
    ),
    "a loss function of two arguments": (
        lambda: _train(loss_fn=lambda _, y: y),
        TypeError,
        rf"loss_fn: expected a function of the batch alone, found <lambda> at {_HERE}:\d+: .*'y'",
    ),
    "a missing column": (
        lambda: _train(lambda own, b: own(b) * b["weight"]),
        KeyError,
        rf"loss_fn: no 'weight' at {_HERE}:\d+ in <lambda>; the batch has 'x', 'y'",
    ),
    "a wrong width into Keras": (
        lambda: _train(lambda own, b: own(b) + _KERAS(b["x"][:, :3])[:, 0]),
        ValueError,
        rf"loss_fn failed at {_HERE}:\d+ in <lambda>: .*expected axis -1 .* to have value 4.*"
        r"\(8, 3\); the batch is \{'x': float32\(8, 4\), 'y': int32\(8,\)\}",
    ),
    "a Python if in the loss": (
        lambda: _train(lambda own, b: own(b) if tf.reduce_sum(b["x"]) > 0 else own(b) * 2),
        TypeError,
        r"loss_fn: a tensor is used as a Python value at .* in <lambda>",
    ),
    "an optimizer by name": (
        lambda: _train(optimizer="adam"),
        TypeError,
        r"optimizer expected to be one of loop.optimizers, found 'adam'; make one, as loop",
    ),
    "an optimizer of Keras": (
        lambda: _train(optimizer=keras.optimizers.Adam(0.1)),
        TypeError,
        r"found an instance of keras\..*Adam; .*loop.keras.KerasOptimizer\(",
    ),
    "an optimizer's class": (
        lambda: _train(optimizer=loop.optimizers.Adam),
        TypeError,
        r"optimizer expected .*, found the class Adam; make one",
    ),
    "a model in place of its variables": (
        lambda: _train(variables=_KERAS),
        TypeError,
        r"variables expected to be a list .*Sequential; give model.trainable_variables",
    ),
    "no variables": (
        lambda: _train(variables=[]),
        ValueError,
        r"variables is empty, expected what is to be trained; a Keras model without an Input",
    ),
    "a clip that is a number": (
        lambda: _train(clip=1.0),
        TypeError,
        r"clip expected to be one of kernels.clipping's or None, found 1.0; give kernels.Clip",
    ),
    "a loss in place of its function": (
        lambda: _train(loss_fn=tf.constant(1.0)),
        TypeError,
        r"loss_fn expected to be a function of the batch, found float32\(\); compute",
    ),
    "a step that returns nothing": (
        lambda: _train(step=lambda _: None),
        TypeError,
        r"Trainer: the step expected to return a dict .*, found None; return \{",
    ),
    "a step that returns a tensor": (
        lambda: _train(step=lambda batch: tf.reduce_sum(batch["x"])),
        TypeError,
        r"Trainer: the step expected to return a dict .*, found float32\(\); return",
    ),
    "a step that reports a vector": (
        lambda: _train(step=lambda batch: {"loss": batch["x"]}),
        ValueError,
        r"rows: a step reports scalars, but 'loss' has shape \(8, 4\); reduce it",
    ),
    "a step that reports None": (
        lambda: _train(step=lambda _: {"loss": None}),
        ValueError,
        r"rows: a step reports scalars, but 'loss' is None; return a number",
    ),
    "a step that reports a string": (
        lambda: _train(step=lambda _: {"loss": "good"}),
        ValueError,
        r"rows: a step reports scalars, but 'loss' is 'good'; return a number",
    ),
    "a missing column in a step": (
        lambda: _train(step=lambda batch: {"loss": tf.reduce_mean(batch["z"])}),
        KeyError,
        r"Trainer: the step: no 'z' at .* in <lambda>; the batch has 'x', 'y'",
    ),
    "an evaluation that returns a tensor": (
        lambda: _evaluate(lambda batch: batch["x"][:, 0]),
        TypeError,
        r"Evaluation: the function expected to return a dict .*, found float32\(8,\); return",
    ),
    "a missing column in an evaluation": (
        lambda: _evaluate(lambda batch: {"loss": batch["y"]}),
        KeyError,
        r"Evaluation: the function: no 'y' at .*; the batch has 'x'",
    ),
    "a prediction that returns a tensor": (
        lambda: _predict(lambda batch: batch["x"]),
        TypeError,
        r"Prediction: the function expected to return a dict .*, found float32\(8, 4\); return",
    ),
    "a missing column in a prediction": (
        lambda: _predict(lambda batch: {"y": batch["y"]}),
        KeyError,
        r"Prediction: the function: no 'y' at .*; the batch has 'x'",
    ),
    "a Keras callback as an action": (
        lambda: _train(actions=[keras.callbacks.EarlyStopping()]),
        TypeError,
        r"each of actions expected to be a loop.Every, found an instance of keras.*EarlyStopping; "
        r"give loop.Every\(",
    ),
    "an early stop that is not within Every": (
        lambda: _train(actions=[loop.EarlyStopping("loss", 3)]),
        TypeError,
        r"each of actions expected to be a loop.Every, found .*EarlyStopping; give loop.Every\(",
    ),
    "an action that is no function": (
        lambda: loop.Every(10, "save"),
        TypeError,
        r"Every: action expected to be a function of the trainer, found 'save'; give",
    ),
    "a directory that is a file": (
        lambda: _train(directory=__file__),
        loop.run.lock.RunLockError,
        rf"expected {_HERE} to be a directory, found a file .*; choose another directory",
    ),
    "a directory within a file": (
        lambda: _train(directory=f"{__file__}/run"),
        loop.run.lock.RunLockError,
        rf"expected {_HERE} to be a directory, found a file .*; choose another directory",
    ),
}


@pytest.mark.parametrize("what", _CASES)
def test_a_fault_of_the_user_is_one_line(what):
    """The line says what, where, what was expected, what was found and how to mend it."""
    run, kind, pattern = _CASES[what]
    with pytest.raises(kind) as error:
        run()
    message = str(error.value.args[0])
    assert re.search(pattern, message), message
    assert "\n" not in message
    assert "\x1b" not in message


@pytest.mark.parametrize("mode", ["graph", "xla", "eager"])
def test_a_loss_function_may_change_its_batch(mode):
    """`pop` and assignments are the function's own affair, under every compiler alike."""

    def popping(own, batch):
        loss = own({"x": batch.pop("x"), "y": batch.pop("y")})
        batch["more"] = loss
        return loss

    _train(popping, mode=mode)


def _helper(batch):
    return batch["x"] + "1"  # A TypeError of the user's own.


def _users_loss(own, batch):
    del own
    return _helper(batch)


@pytest.mark.parametrize("mode", ["graph", "xla", "eager"])
def test_the_users_frames_stand_first(mode):
    """An error in a loss shows the user's frames last of all, and none of TensorFlow's before."""
    try:
        _train(_users_loss, mode=mode)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        notes = getattr(error, "__notes__", [])
    names = [frame.name for frame in frames]
    assert names[-2:] == ["_users_loss", "_helper"]
    libraries = [frame for frame in frames if "tensorflow" in frame.filename]
    assert libraries == []
    assert len(frames) <= 12
    if sys.version_info >= (3, 11):
        (note,) = notes
        assert re.fullmatch(
            rf"GradientStep: loss_fn failed at {_HERE}:\d+ in _helper; the batch is "
            r"\{'x': float32\(8, 4\), 'y': int32\(8,\)\}",
            note,
        )


def test_all_frames_are_kept_where_tensorflow_is_asked_for_them():
    """`tf.debugging.disable_traceback_filtering` keeps ours and TensorFlow's."""
    tf.debugging.disable_traceback_filtering()
    try:
        with pytest.raises((TypeError, ValueError)) as error:
            _train(_users_loss)
    finally:
        tf.debugging.enable_traceback_filtering()
    frames = traceback.extract_tb(error.value.__traceback__)
    assert len([frame for frame in frames if "tensorflow" in frame.filename]) > 5


def test_an_error_of_the_users_own_keeps_its_type_and_message():
    """What the user raises is what the caller of `train` catches."""

    class OwnError(Exception):
        pass

    def raising(*_):
        raise OwnError("as I say")

    with pytest.raises(OwnError) as error:
        _train(raising)
    assert str(error.value) == "as I say"
