"""Metrics against NumPy in float64 over all examples at once, whatever the batches and replicas."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import loop
from loop import distribute, metrics
from loop.feeds import Arrays, Dataset

_SIZE, _CLASSES = 203, 5
# Not asked of `_metrics` here: Keras's variables would start TensorFlow before it is split in two.
_NAMES = ("mean", "weighted", "accuracy", "top3", "confusion", "auc")
_NAMES += ("keras_auc", "keras_accuracy", "keras_f1", "keras_weighted", "keras_elements")


def _data():
    """Scores with ties among each other and with the label's own."""
    rng = np.random.default_rng(3)
    logits = np.round(rng.normal(0.5, 1.0, [_SIZE, _CLASSES]), 1).astype(np.float32)
    label = rng.integers(0, _CLASSES, _SIZE).astype(np.int32)
    logits[np.arange(_SIZE), label] += np.float32(0.5)
    score = 1 / (1 + np.exp(-rng.normal(0.4, 1.0, _SIZE) - (label > 2)))
    return {
        "logits": logits,
        "label": label,
        "score": score.astype(np.float32),
        "positive": label > 2,
        "weight": rng.uniform(0.1, 2.0, _SIZE),
        "weights": rng.uniform(0.1, 2.0, [_SIZE, _CLASSES]).astype(np.float32),
    }


def _metrics():
    return {
        "mean": metrics.Mean("score"),
        "weighted": metrics.Mean("score", weight="weight"),
        "accuracy": metrics.Accuracy(),
        "top3": metrics.TopK(3),
        "confusion": metrics.ConfusionMatrix(_CLASSES),
        "auc": metrics.AUC(label="positive"),
        "keras_auc": metrics.KerasMetric(keras.metrics.AUC(), "positive", "score"),
        "keras_accuracy": metrics.KerasMetric(
            keras.metrics.SparseCategoricalAccuracy(), "label", "logits"
        ),
        # Makes its variables only when it sees the first shapes.
        "keras_f1": metrics.KerasMetric(keras.metrics.F1Score(), "one_hot", "logits"),
        "keras_weighted": metrics.KerasMetric(
            keras.metrics.SparseCategoricalAccuracy(), "label", "logits", "weight"
        ),
        "keras_elements": metrics.KerasMetric(keras.metrics.Mean(), "logits", "weights"),
    }


def _function(batch):
    return {**batch, "one_hot": tf.one_hot(batch["label"], _CLASSES)}


def _auc(positive, score):
    """The share of (positive, negative) pairs in the right order, ties half, pair by pair."""
    difference = score[positive].astype(np.float64)[:, None] - score[~positive]
    return ((difference > 0) + 0.5 * (difference == 0)).mean()


def _check(found):
    data = _data()
    logits, label, score = data["logits"], data["label"], data["score"].astype(np.float64)
    # Of ties the lower class comes first.
    ranked = np.argsort(-logits, axis=1, kind="stable")
    np.testing.assert_allclose(found["mean"], score.mean(), rtol=1e-12)
    expected = (score * data["weight"]).sum() / data["weight"].sum()
    np.testing.assert_allclose(found["weighted"], expected, rtol=1e-12)
    assert found["accuracy"] == (ranked[:, 0] == label).mean()
    assert found["top3"] == (ranked[:, :3] == label[:, None]).any(1).mean()
    confusion = np.zeros([_CLASSES, _CLASSES], int)
    np.add.at(confusion, (label, ranked[:, 0]), 1)
    assert found["confusion"] == confusion.tolist()
    np.testing.assert_allclose(found["auc"], _auc(data["positive"], score), atol=1e-4)
    one_hot = np.eye(_CLASSES, dtype=np.float32)[label]
    for name, arguments in {
        "keras_auc": (data["positive"], data["score"]),
        "keras_accuracy": (label, logits),
        "keras_f1": (one_hot, logits),
        "keras_weighted": (label, logits, data["weight"]),
        "keras_elements": (logits, data["weights"]),
    }.items():
        metric = _metrics()[name].metric
        metric.update_state(*arguments)
        np.testing.assert_allclose(found[name], np.asarray(metric.result()), rtol=1e-5)


def _evaluated(mode, replicas, batch_size=16, feed=None):
    feed = feed or Arrays(_data(), batch_size=batch_size)
    evaluation = loop.Evaluation(_function, feed, metrics=_metrics(), batches_per_call=4).compiled(
        mode, replicas
    )
    evaluation.compile()
    evaluation()
    found = evaluation()  # Nothing is left over from the first.
    assert evaluation.traces == (mode != "eager")
    return found


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_all_metrics_are_numpys_over_all_examples(mode):
    """203 examples in padded batches of 16, every compile mode, time after time, in one trace."""
    found = _evaluated(mode, distribute.single(), batch_size=64 if mode == "eager" else 16)
    json.dumps(found)
    _check(found)


def test_all_metrics_on_two_replicas():
    """Graph and XLA on two virtual CPUs, slices of a batch of 15 padded, and a stream."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.loop.metrics.test_metrics"],
        cwd=pathlib.Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    for line in run.stdout.splitlines()[-3:]:
        _check(json.loads(line))


def _on_two_replicas():
    replicas = distribute.mirrored(virtual_devices=2)
    for mode in ("graph", "xla"):
        print(json.dumps(_evaluated(mode, replicas, batch_size=15)))
    examples = tf.data.Dataset.from_tensor_slices(_data()).batch(15)
    streamed = Dataset(lambda *_: examples, batch_size=15)
    print(json.dumps(_evaluated("graph", replicas, feed=streamed)))


def _state(metric, mask=None, **values):
    """The state of one batch, on the host."""
    tensors = {name: tf.constant(value) for name, value in values.items()}
    size = len(next(iter(values.values())))
    mask = tf.constant(np.ones(size, bool) if mask is None else mask)
    return {name: part.numpy() for name, part in metric.of(tensors, mask).items()}


@pytest.mark.parametrize("name", _NAMES)
def test_merging_the_parts_is_the_whole(name):
    """Any cut in two, with masked rows, merges to the whole's result; empty changes nothing."""
    assert set(_NAMES) == set(_metrics())
    metric, data = _metrics()[name], _data()
    data["one_hot"] = np.eye(_CLASSES, dtype=np.float32)[data["label"]]
    mask = np.random.default_rng(8).uniform(size=_SIZE) < 0.7
    whole = _state(metric, **{key: value[mask] for key, value in data.items()})
    parts = [
        _state(metric, mask[part], **{key: value[part] for key, value in data.items()})
        for part in (slice(0, 61), slice(61, None))
    ]
    empty = {key: part.numpy() for key, part in metric.empty().items()}
    merged = metric.merge(empty, metric.merge(*parts))
    assert {k: (v.dtype, v.shape) for k, v in empty.items()} == {
        k: (v.dtype, v.shape) for k, v in whole.items()
    }
    np.testing.assert_allclose(
        np.asarray(metric.compute(merged)), np.asarray(metric.compute(whole)), rtol=1e-5
    )


def test_auc_is_exact_where_bins_part_the_scores_and_else_within_its_resolution():
    """Scores of 17 values in 17 bins are exact with all their ties; few bins keep the bound."""
    rng = np.random.default_rng(5)
    label = rng.integers(0, 2, 500)
    score = np.clip(rng.integers(0, 13, 500) + 4 * label, 0, 16) / 16
    exact = metrics.AUC(bins=17)
    state = _state(exact, label=label, score=score)
    np.testing.assert_allclose(exact.compute(state), _auc(label > 0, score), rtol=1e-14)
    logit = rng.normal(-3, 5, 500) + 6 * label
    for bins in (2, 5, 40):
        coarse = metrics.AUC(low=-10, high=10, bins=bins)
        state = _state(coarse, label=label, score=logit)
        error = abs(coarse.compute(state) - _auc(label > 0, logit))
        assert 0 < error <= coarse.resolution(state)


def test_labels_and_scores_out_of_range_are_told():
    """A label that is no class, a NaN score, one label alone, and no example are one line each."""
    logits = np.random.default_rng(0).normal(size=[3, 2]).astype(np.float32)
    confusion = metrics.ConfusionMatrix(2)
    with pytest.raises(ValueError, match=r"labels in \[0, 2\), found 2 outside"):
        confusion.compute(_state(confusion, label=[-1, 1, 2], logits=logits))
    for metric in (metrics.TopK(2), metrics.Accuracy()):
        with pytest.raises(ValueError, match=f"{type(metric).__name__}: .* found 2 outside"):
            metric.compute(_state(metric, label=[-1, 1, 2], logits=logits))
    auc = metrics.AUC()
    with pytest.raises(ValueError, match="scores that are numbers, found 1 NaN"):
        auc.compute(_state(auc, label=[0, 1], score=[0.5, np.nan]))
    with pytest.raises(ValueError, match="both labels, found 0 negative and 2 positive"):
        auc.compute(_state(auc, label=[1, 1], score=[0.5, 0.25]))
    with pytest.raises(ValueError, match="at least one example, found none"):
        metrics.Accuracy().compute({"correct": 0, "count": 0})
    nan = logits.copy()
    nan[0] = np.nan
    label = logits.argmax(1)
    assert metrics.Accuracy().compute(_state(metrics.Accuracy(), label=label, logits=nan)) == 2 / 3


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: metrics.TopK(0), ValueError, "k must be at least 1, got 0"),
        (lambda: metrics.ConfusionMatrix(0), ValueError, "classes must be at least 1, got 0"),
        (lambda: metrics.AUC(low=1.0), ValueError, "low must be below high, got 1.0 and 1.0"),
        (lambda: metrics.AUC(bins=1), ValueError, "bins must be at least 2, got 1"),
        (lambda: metrics.KerasMetric(3, "a"), TypeError, "expected a keras.metrics.Metric"),
        (lambda: metrics.KerasMetric(keras.metrics.Mean()), ValueError, "expected the names"),
        (
            lambda: metrics.KerasMetric(keras.metrics.Mean(), "x", "weight", "more"),
            ValueError,
            "Mean.update_state takes values, sample_weight; found 3 names of values, 'x', 'weight'",
        ),
    ],
)
def test_bad_arguments_are_refused(make, error, message):
    """When the metric is made."""
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        (metrics.Mean("x"), KeyError, "Mean: expected a value 'x', found logits, label"),
        (metrics.Mean("logits"), ValueError, r"'logits' has shape \(4, 3\); expected one value"),
        (metrics.TopK(4), ValueError, "k=4 expected to be at most the 3 classes"),
        (metrics.ConfusionMatrix(2), ValueError, "expected 2 classes"),
        (metrics.Accuracy(label="logits"), ValueError, "expected one value an example"),
        (metrics.Accuracy(label="real"), ValueError, "'real' is float32, expected integer"),
        (metrics.Accuracy(scores="label"), ValueError, r"expected \[B, classes\]"),
    ],
)
def test_values_that_do_not_fit_are_refused(metric, error, message):
    """When the evaluation is traced, with the value's name."""
    values = {
        "logits": np.zeros([4, 3], np.float32),
        "label": np.zeros(4, np.int32),
        "real": np.zeros(4, np.float32),
    }
    with pytest.raises(error, match=message):
        _state(metric, **values)


def test_a_keras_metric_that_does_not_add_up_is_refused():
    """A variable that starts at one would count once a batch."""

    class Largest(keras.metrics.Metric):
        def __init__(self):
            super().__init__()
            self.largest = self.add_weight(initializer="ones", name="largest")

        def update_state(self, value, sample_weight=None):
            self.largest.assign(tf.reduce_max(value * sample_weight))

        def reset_state(self):
            self.largest.assign(1.0)

        def result(self):
            return self.largest

    with pytest.raises(ValueError, match=r"largest expected to be zero when reset"):
        _state(metrics.KerasMetric(Largest(), "x"), x=np.ones(3, np.float32))


if __name__ == "__main__":
    _on_two_replicas()
