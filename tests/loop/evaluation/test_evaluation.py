"""Means over a whole data set."""

import numpy as np
import pytest
import tensorflow as tf

import loop
from loop import distribute, metrics
from loop.feeds import Arrays, Dataset
from tests.loop import steps


def _evaluation(function, size=37, batch_size=8, **options):
    return loop.Evaluation(function, Arrays(steps.arrays(size), batch_size=batch_size, **options))


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_every_example_counts_once(mode):
    """37 examples in batches of 8: the means are NumPy's over 37, in one trace, time after time."""
    net = steps.Net(dropout=0.5)
    net.norm.moving_mean.assign([0.1, 0.2, -0.3, 0.4])

    def values(batch):
        error = net(batch["x"], training=False) - batch["y"]
        return {"loss": error**2, "large": tf.abs(error) > 0.5, "y": batch["y"]}

    evaluation = _evaluation(values).compiled(mode, distribute.single())
    evaluation.compile()
    data = steps.arrays()
    for factor in (1.0, 2.0):
        net.out.kernel.assign(net.out.kernel * factor)
        before = steps.values(net.state)
        error = net(tf.constant(data["x"]), training=False).numpy() - data["y"]
        found = evaluation()
        assert list(found) == ["loss", "large", "y"]
        np.testing.assert_allclose(found["loss"], (error**2).mean(), rtol=1e-10)
        np.testing.assert_allclose(found["large"], (np.abs(error) > 0.5).mean(), rtol=1e-12)
        np.testing.assert_allclose(found["y"], data["y"].mean(), rtol=1e-12)
        assert steps.same(before, steps.values(net.state))
    assert evaluation.traces == (mode != "eager")


def test_padding_cannot_leak_even_as_nan():
    """The last batch's padding repeats example 0; were it counted, its NaN would show."""
    data = {"y": np.array([np.nan, *range(1, 10)])}

    def values(batch):
        first = tf.math.is_nan(batch["y"])
        return {"y": batch["y"], "rest": tf.where(first, tf.zeros_like(batch["y"]), batch["y"])}

    feed = Arrays(data, batch_size=4)
    found = loop.Evaluation(values, feed).compiled("graph", distribute.single())()
    assert np.isnan(found["y"])  # example 0 itself counts
    assert found["rest"] == 4.5
    feed = Arrays({"y": data["y"][1:]}, batch_size=4)
    values_of_nan_padding = loop.Evaluation(
        lambda batch: {"y": tf.where(batch["y"] == 1, batch["y"], 2.0)}, feed
    ).compiled("graph", distribute.single())
    assert values_of_nan_padding()["y"] == (1 + 8 * 2) / 9  # the padding repeats the 1


def test_float32_sums_do_not_drift():
    """A hundred thousand values of 0.1 in float32 have their own mean, not a drifted sum's."""
    feed = Arrays({"x": np.full(100_003, 0.1, np.float32)}, batch_size=1000)
    found = loop.Evaluation(lambda batch: dict(batch), feed).compiled(
        "graph", distribute.single()
    )()
    np.testing.assert_allclose(found["x"], float(np.float32(0.1)), rtol=1e-12)


@pytest.mark.parametrize("value", [lambda y: tf.reduce_mean(y), lambda y: y[:, None]])
def test_a_value_that_is_not_one_an_example_is_refused(value):
    """A mean taken by the user over a padded batch would count the padding."""
    evaluation = _evaluation(lambda batch: {"loss": value(batch["y"])})
    with pytest.raises(ValueError, match=r"'loss' has shape .*; expected one value an example"):
        evaluation.compiled("graph", distribute.single()).compile()


def test_what_cannot_be_evaluated_is_refused():
    """A feed without an end, no batches a call, and a data set of no example."""
    with pytest.raises(TypeError, match="Endless expected to have evaluation_chunk or evaluation"):
        loop.Evaluation(dict, type("Endless", (), {})())
    feed = Arrays(steps.arrays(9), batch_size=3)
    with pytest.raises(ValueError, match="batches_per_call must be at least 1, got 0"):
        loop.Evaluation(dict, feed, batches_per_call=0)
    none = tf.data.Dataset.from_tensor_slices({"y": np.zeros(0)}).batch(3)
    evaluation = loop.Evaluation(dict, Dataset(lambda *_: none, batch_size=3))
    with pytest.raises(ValueError, match="expected at least one example, found none"):
        evaluation.compiled("graph", distribute.single())()


def test_metrics_choose_what_is_evaluated():
    """Only the named metrics, under their names; an array as lists."""
    data = {
        "label": np.array([0, 1, 1, 2, 1]),
        "logits": np.eye(3, dtype=np.float32)[[0, 1, 2, 2, 1]],
    }
    found = loop.Evaluation(
        dict,
        Arrays(data, batch_size=2),
        metrics={"right": metrics.Accuracy(), "table": metrics.ConfusionMatrix(3)},
    ).compiled("graph", distribute.single())()
    assert found == {"right": 0.8, "table": [[1, 0, 0], [0, 2, 1], [0, 0, 1]]}
