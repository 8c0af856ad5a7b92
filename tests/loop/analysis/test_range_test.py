"""The range test finds the rate at which theory says that descent diverges, and leaves no trace."""

import csv
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import loop
from loop import optimizers
from loop.analysis.range_test import range_test
from loop.averaging import ema
from loop.feeds import Arrays
from loop.keras.adapter import KerasOptimizer
from tests.loop import steps


def _linear(optimizer, **options):
    """Least squares on the whole batch: descent diverges from 2 / the Hessian's largest value."""
    data = steps.arrays(32)
    weight = tf.Variable(np.zeros(5), name="weight")

    def loss(batch):
        return (tf.linalg.matvec(batch["x"], weight) - batch["y"]) ** 2

    step = loop.GradientStep(loss, [weight], optimizer, **options)
    hessian = 2 * data["x"].T @ data["x"] / 32
    limit = 2 / np.linalg.eigvalsh(hessian).max()
    return step, Arrays(data, batch_size=32), {"weight": weight, "optimizer": optimizer}, limit


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_the_loss_turns_where_descent_diverges(mode):
    """The rates are geometric, the loss turns near 2 / lambda, the suggestion is below it."""
    step, feed, state, limit = _linear(optimizers.SGD(0.01))
    found = range_test(step, feed, state, low=limit / 1e3, high=limit * 1e3, compile=mode)
    expected = limit / 1e3 * 1e6 ** (np.arange(100) / 99)
    np.testing.assert_allclose(found.learning_rates, expected[: len(found.learning_rates)], 1e-6)
    assert len(found.learning_rates) < 90, "stopped when the loss had diverged"
    # Behind the limit, by the average's lag and the time that divergence takes to show.
    assert limit / 2 < found.turning < limit * 10
    assert found.suggestion == found.turning / 10
    assert limit / 20 < found.suggestion < limit
    # NumPy's descent with these rates.
    data, weight = steps.arrays(32), np.zeros(5)
    for rate, loss in zip(found.learning_rates, found.losses, strict=True):
        error = data["x"] @ weight - data["y"]
        np.testing.assert_allclose(loss, (error**2).mean(), rtol=1e-4)
        weight = weight - rate * 2 * error @ data["x"] / 32


def test_the_state_is_as_before_and_the_schedule_too():
    """Weights, slots, averages and statistics keep every bit; training then uses its own rate."""
    net = steps.Net(dropout=0.2)
    optimizer = optimizers.Adam(0.003)
    step = loop.GradientStep(
        steps.squared_errors(net),
        net.trainable_variables,
        optimizer,
        after_update=[ema.WeightEMA(0.9)],
    )
    feed = Arrays(steps.arrays(32), batch_size=8)
    state = {"net": net, "optimizer": optimizer}
    trainer = loop.Trainer(step=step, feed=feed, state=state, compile="graph")
    trainer.train(until=3)
    before = steps.values(trainer.state)
    range_test(step, feed, state, steps=20, compile="graph")
    assert steps.same(before, steps.values(trainer.state))
    trainer.train(until=4)
    assert trainer.rows["learning_rate"].tolist() == [np.float32(0.003)]
    assert trainer.traces == 1
    with pytest.raises(KeyboardInterrupt), optimizer.scheduled(loop.schedules.constant(1.0)):
        raise KeyboardInterrupt
    assert float(optimizer.learning_rate_at(tf.constant(0, tf.int64))) == np.float32(0.003)


def test_a_keras_optimizer_follows_the_rates_too():
    """Keras's SGD gives the losses of ours."""
    data = steps.arrays(32, dtype=np.float32)
    losses = []
    for make in (
        lambda: optimizers.SGD(0.01),
        lambda: KerasOptimizer(keras.optimizers.SGD(0.01)),
    ):
        weight = keras.Variable(np.zeros(5, np.float32), name="weight")
        optimizer = make()

        def loss(batch, weight=weight):
            return (tf.linalg.matvec(batch["x"], weight.value) - batch["y"]) ** 2

        step = loop.GradientStep(loss, [weight], optimizer)
        feed = Arrays(data, batch_size=16)
        state = {"weight": weight, "optimizer": optimizer}
        losses.append(range_test(step, feed, state, high=0.1, steps=15, compile="graph").losses)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert losses[0][-1] < losses[0][0]


def test_a_loss_that_becomes_nan_ends_the_test():
    """A step that is not finite ends it with what there is; one at the start is an error."""
    step, feed, state, limit = _linear(optimizers.SGD(0.01))
    found = range_test(step, feed, state, low=limit * 1e3, high=limit * 1e300, steps=10)
    assert len(found.losses) < 10
    state["weight"].assign(np.full(5, np.nan))
    with pytest.raises(ValueError, match="not finite at the first step"):
        range_test(step, feed, state)
    for low, high in ((0.0, 1.0), (1.0, 1.0), (1.0, np.inf)):
        with pytest.raises(ValueError, match="expected 0 < low < high"):
            range_test(step, feed, state, low=low, high=high)
    with pytest.raises(ValueError, match="steps must be at least 10, got 9"):
        range_test(step, feed, state, steps=9)


def test_the_table_and_the_plot(tmp_path, monkeypatch):
    """The CSV holds every number to the bit; the plot draws both curves on a logarithmic axis."""
    step, feed, state, _ = _linear(optimizers.SGD(0.01))
    found = range_test(step, feed, state, steps=12, compile="graph")
    found.write_csv(tmp_path / "rates.csv")
    with (tmp_path / "rates.csv").open() as file:
        header, *lines = list(csv.reader(file))
    assert header == ["learning_rate", "loss", "smoothed"]
    columns = np.array(lines, float).T
    for column, array in zip(
        columns, (found.learning_rates, found.losses, found.smoothed), strict=True
    ):
        np.testing.assert_array_equal(column, array)
    calls = []

    class Recorder:
        def __getattr__(self, name):
            def call(*arguments, **options):
                calls.append((name, arguments, options))
                return Recorder()

            return call

    # matplotlib is optional: what is asked of it is recorded instead.
    module = types.SimpleNamespace(Figure=lambda **_: Recorder())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", module)
    found.plot(tmp_path / "rates.png")
    drawn = [arguments[1] for name, arguments, _ in calls if name == "plot"]
    np.testing.assert_array_equal(drawn, [found.losses, found.smoothed])
    assert ("set", (), {"xscale": "log", "xlabel": "learning rate", "ylabel": "loss"}) in calls
    assert ("savefig", (tmp_path / "rates.png",), {}) in calls
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError):
        found.plot(tmp_path / "rates.png")
