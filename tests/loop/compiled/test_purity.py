"""A step that is no pure function of (state, seed, global step) is refused before it runs."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import loop
from loop import layers, optimizers
from loop.compiled.purity import ImpureStepError

_MODES = ("eager", "graph", "xla")


def _feed():
    rng = np.random.default_rng(1)
    arrays = {"x": rng.normal(2, 3, (24, 4)), "y": rng.normal(size=24)}
    return loop.feeds.Arrays(arrays, batch_size=4, seed=3)


def _trainer(mode, also=lambda _: None, **options):
    """A small regression whose loss does something else besides."""
    model = layers.Dense(4, 1, name="dense", seed=1, dtype=tf.float64)
    optimizer = optimizers.Adam(0.1)

    def loss(batch):
        extra = also(batch)
        squared = (model(batch["x"])[:, 0] - batch["y"]) ** 2
        return squared if extra is None else squared + tf.cast(extra, tf.float64)

    step = loop.GradientStep(loss, model.trainable_variables, optimizer)
    return loop.Trainer(step=step, feed=_feed(), compile=mode, **options), model


@pytest.mark.parametrize("mode", _MODES)
def test_an_undeclared_variable_is_refused_by_name(mode):
    """Nothing has run when it is: neither the variable nor the weights have changed."""
    seen = tf.Variable(0, name="seen", dtype=tf.int64, trainable=False)

    def count(_):
        seen.assign_add(4)

    trainer, model = _trainer(mode, count)
    before = model.kernel.numpy()
    with pytest.raises(ImpureStepError, match="the step assigns 'seen', expected only"):
        trainer.train(until=2)
    assert int(seen) == 0
    np.testing.assert_array_equal(model.kernel.numpy(), before)


@pytest.mark.parametrize("mode", _MODES)
def test_a_declared_or_scratch_variable_is_taken(mode):
    """In `state=` or in `scratch=` the same variable is assigned once a step."""
    for option in ("state", "scratch"):
        seen = tf.Variable(0, name="seen", dtype=tf.int64, trainable=False)

        def count(_, seen=seen):
            seen.assign_add(4)

        trainer, _ = _trainer(mode, count, **{option: [seen]})
        trainer.train(until=3)
        assert int(seen) == 12
        assert ("state/0" in trainer.state) == (option == "state")


def test_what_a_gradient_step_brings_need_not_be_declared(tmp_path):
    """Without `state=` a resume is the uncut run, to the bit."""
    whole, model = _trainer("graph")
    whole.train(until=9)
    for until in (4, 9):
        trainer, resumed = _trainer("graph", directory=tmp_path)
        with trainer:
            trainer.train(until=until)
    assert {"step/variables/dense/kernel", "step/optimizer/dense/kernel/m"} <= set(trainer.state)
    np.testing.assert_array_equal(resumed.kernel.numpy(), model.kernel.numpy())


@pytest.mark.parametrize("mode", _MODES)
def test_hidden_random_state_is_refused_or_said(mode, caplog):
    """A stateful draw names the stateless way; allowed, the log says what it costs."""

    def draw(_):
        return tf.random.normal([4])

    trainer, _ = _trainer(mode, draw)
    with pytest.raises(ImpureStepError, match=r"draws by RandomStandardNormal.*stateless"):
        trainer.train(until=1)
    trainer, _ = _trainer(mode, draw, stateful_random=True)
    with caplog.at_level(logging.WARNING, logger="loop"):
        trainer.train(until=1)
    assert "a resume of this run is not exact" in caplog.text


def test_keras_draws_without_a_seed_are_refused():
    """Keras's global generator is written by the step, under XLA too."""
    for mode in ("graph", "xla"):
        trainer, _ = _trainer(mode, lambda _: keras.random.normal([4]))
        with pytest.raises(ImpureStepError, match=r"seed_generator_state.*SeedGenerator"):
            trainer.train(until=1)


def test_a_keras_layer_that_is_left_out_is_refused():
    """A Dropout's seeds and a BatchNormalization's statistics are named where no owner is given."""
    norm = keras.layers.BatchNormalization(name="norm")
    norm.build((4, 4))
    dropout = keras.layers.Dropout(0.5, seed=1)

    def forward(batch):
        return tf.reduce_sum(dropout(norm(batch["x"], training=True), training=True), 1)

    trainer, _ = _trainer("graph", forward)
    with pytest.raises(ImpureStepError, match=r"'norm/moving_mean'.*'norm/moving_variance'"):
        trainer.train(until=1)


def test_a_step_that_calls_python_is_said_once(caplog):
    """A print in the step is named in one line of the log."""

    def show(_):
        tf.print("x", output_stream="file:///dev/null")

    trainer, _ = _trainer("graph", show)
    with caplog.at_level(logging.WARNING, logger="loop"):
        trainer.train(until=5)
    assert sum("PrintV2" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_a_stateful_recurrent_layer_resumes_exactly(mode, tmp_path):
    """The states of a stateful LSTM, which no list of Keras's weights holds, are in the state."""

    def run(until, directory):
        keras.utils.clear_session()
        keras.utils.set_random_seed(3)
        given = keras.Input(batch_shape=(8, 5, 3))
        hidden = keras.layers.LSTM(4, stateful=True, name="lstm")(given)
        model = keras.Model(given, keras.layers.Dense(1, name="out")(hidden))
        optimizer = optimizers.Adam(0.01)
        step = loop.GradientStep(
            lambda batch: tf.reduce_mean((model(batch["x"], training=True) - batch["y"]) ** 2, 1),
            model.trainable_variables,
            optimizer,
        )
        rng = np.random.default_rng(0)
        arrays = {"x": rng.normal(size=(64, 5, 3)), "y": rng.normal(size=(64, 1))}
        feed = loop.feeds.Arrays({n: a.astype("f") for n, a in arrays.items()}, batch_size=8)
        with loop.Trainer(
            step=step, feed=feed, state={"model": model}, compile=mode, directory=directory
        ) as trainer:
            trainer.train(until=until)
        return [variable.numpy() for variable in trainer.state.values()]

    whole = run(7, None)
    run(3, tmp_path)
    resumed = run(7, tmp_path)
    assert len(whole) == len(resumed)
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, other)
