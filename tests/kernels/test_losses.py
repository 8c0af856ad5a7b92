"""Losses against float64 NumPy truths, TensorFlow and Keras, under every compiler."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import losses, target

HALF = {tf.float16: 2e-3, tf.bfloat16: 2e-2}


def _log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _softmax_truth(labels, logits, smoothing=0.0, ignore=None):
    log_p = _log_softmax(np.asarray(logits, np.float64))
    classes = logits.shape[-1]
    out = np.zeros(labels.shape)
    for index in np.ndindex(*labels.shape):
        if labels[index] != ignore:
            target_row = np.full(classes, smoothing / classes)
            target_row[labels[index]] += 1.0 - smoothing
            out[index] = -(target_row * log_p[index]).sum()
    return out


def _focal_truth(labels, logits, alpha, gamma):
    p = 1.0 / (1.0 + np.exp(-np.asarray(logits, np.float64)))
    q = 1.0 / (1.0 + np.exp(np.asarray(logits, np.float64)))
    element = -labels * alpha * q**gamma * np.log(p) - (1 - labels) * (1 - alpha) * (
        p**gamma * np.log(q)
    )
    return element.mean(tuple(range(1, element.ndim)))


def _huber_truth(targets, predictions, delta):
    error = np.abs(np.asarray(predictions, np.float64) - targets)
    element = np.where(error <= delta, error**2 / 2, delta * (error - delta / 2))
    return element.mean(tuple(range(1, element.ndim)))


def _inputs(dtype=tf.float32):
    rng = np.random.default_rng(3)
    logits = tf.cast(rng.normal(1.5, 3.0, (7, 5)), dtype)
    labels = np.array([0, 4, 2, 2, -1, 1, 3])
    soft = rng.dirichlet(np.linspace(0.3, 2.0, 5), 7)
    binary = (rng.random((7, 5)) < 0.3).astype(np.int32)
    return logits, labels, soft, binary


def _all_losses(logits, labels, soft, binary):
    """Every loss under test, each a function of the logits' values."""
    return {
        "softmax": losses.softmax_cross_entropy(labels, logits, ignore_index=-1),
        "smoothed": losses.softmax_cross_entropy(
            labels, logits, label_smoothing=0.1, ignore_index=-1
        ),
        "soft": losses.softmax_cross_entropy_soft(soft, logits),
        "sigmoid": losses.sigmoid_cross_entropy(binary, logits),
        "focal": losses.sigmoid_focal(binary, logits),
        "focal_half": losses.sigmoid_focal(binary, logits, alpha=0.6, gamma=0.5),
        "huber": losses.huber(soft, logits, delta=1.3),
    }


def _all_truths(logits, labels, soft, binary):
    logits = np.asarray(logits, np.float64)
    return {
        "softmax": _softmax_truth(labels, logits, ignore=-1),
        "smoothed": _softmax_truth(labels, logits, 0.1, ignore=-1),
        "soft": -(soft * _log_softmax(logits)).sum(-1),
        "sigmoid": _focal_truth(binary, logits, 0.5, 0.0) * 2.0,
        "focal": _focal_truth(binary, logits, 0.25, 2.0),
        "focal_half": _focal_truth(binary, logits, 0.6, 0.5),
        "huber": _huber_truth(soft, logits, 1.3),
    }


def _losses_and_gradients(compiler, logits, labels, soft, binary):
    with target.tracing_for(compiler), tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        values = _all_losses(logits, labels, soft, binary)
    # Uneven upstream gradients, so that a lost or misplaced one shows.
    weights = tf.constant([0.5, -1.0, 2.0, 0.25, 3.0, -0.7, 1.1], tf.float64)
    return values, {
        name: tape.gradient(value, logits, tf.cast(weights, value.dtype))
        for name, value in values.items()
    }


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64, tf.float16, tf.bfloat16])
def test_losses_equal_truth_under_every_compiler(dtype):
    """Values are NumPy's on the rounded inputs, alike in eager, graph and XLA, as are gradients."""
    logits, labels, soft, binary = _inputs(dtype)
    truths = _all_truths(tf.cast(logits, tf.float64).numpy(), labels, soft, binary)
    got = {}
    for compiler in ("eager", "graph", "xla"):
        call = _losses_and_gradients
        if compiler != "eager":
            call = tf.function(call, jit_compile=compiler == "xla", autograph=False)
        got[compiler] = call(compiler, logits, labels, soft, binary)
    tolerance = 1e-12 if dtype == tf.float64 else 3e-6
    for compiler, (values, gradients) in got.items():
        for name, value in values.items():
            message = f"{name} {compiler}"
            assert value.dtype == (tf.float64 if dtype == tf.float64 else tf.float32)
            assert gradients[name].dtype == dtype
            np.testing.assert_allclose(
                value, truths[name], rtol=tolerance, atol=tolerance, err_msg=message
            )
            np.testing.assert_allclose(
                tf.cast(gradients[name], tf.float64),
                tf.cast(got["eager"][1][name], tf.float64),
                rtol=HALF.get(dtype, tolerance),
                atol=HALF.get(dtype, tolerance),
                err_msg=message,
            )


def test_gradients_equal_finite_differences():
    """In float64 first and second derivatives agree with central differences at each element."""
    logits, labels, soft, binary = _inputs(tf.float64)
    direction = np.random.default_rng(5).normal(0.3, 1.0, logits.shape)

    @tf.function(autograph=False)
    def derivatives(logits):
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(logits)
            with tf.GradientTape(persistent=True) as inner:
                inner.watch(logits)
                values = _all_losses(logits, labels, soft, binary)
            first = {k: inner.gradient(v, logits) for k, v in values.items()}
            projected = {k: tf.reduce_sum(g * direction) for k, g in first.items()}
        second = {k: outer.gradient(p, logits) for k, p in projected.items()}
        return {k: tf.reduce_sum(v) for k, v in values.items()}, first, projected, second

    _, first, _, second = derivatives(logits)
    step = 1e-5
    for index in np.ndindex(7, 5):
        nudge = np.zeros((7, 5))
        nudge[index] = step
        up, down = derivatives(logits + nudge), derivatives(logits - nudge)
        for name in first:
            value_slope = (up[0][name] - down[0][name]) / (2 * step)
            gradient_slope = (up[2][name] - down[2][name]) / (2 * step)
            message = f"{name} at {index}"
            np.testing.assert_allclose(
                first[name][index], value_slope, rtol=1e-6, atol=1e-8, err_msg=message
            )
            np.testing.assert_allclose(
                second[name][index], gradient_slope, rtol=1e-6, atol=1e-8, err_msg=message
            )


def test_soft_targets_have_a_gradient():
    """softmax_cross_entropy_soft's gradient in its targets is minus the log-probabilities."""
    logits, _, soft, _ = _inputs(tf.float64)
    targets = tf.constant(soft)
    with tf.GradientTape() as tape:
        tape.watch(targets)
        loss = losses.softmax_cross_entropy_soft(targets, logits)
    np.testing.assert_allclose(tape.gradient(loss, targets), -_log_softmax(logits.numpy()))


def test_losses_equal_tensorflow_and_keras():
    """On plain inputs they are TensorFlow's and Keras's own numbers."""
    logits, labels, soft, binary = _inputs()
    labels = np.abs(labels)
    pairs = [
        (
            losses.softmax_cross_entropy(labels, logits),
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits),
        ),
        (
            losses.softmax_cross_entropy(labels, logits, label_smoothing=0.2),
            keras.losses.categorical_crossentropy(
                tf.one_hot(labels, 5), logits, from_logits=True, label_smoothing=0.2
            ),
        ),
        (
            losses.softmax_cross_entropy_soft(soft, logits),
            tf.nn.softmax_cross_entropy_with_logits(soft, logits),
        ),
        (
            losses.sigmoid_focal(binary, logits, alpha=0.3, gamma=1.5),
            keras.losses.binary_focal_crossentropy(
                binary,
                logits,
                from_logits=True,
                apply_class_balancing=True,
                alpha=0.3,
                gamma=1.5,
            ),
        ),
        (losses.huber(soft, logits, delta=0.8), keras.losses.huber(soft, logits, delta=0.8)),
    ]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [3e4, 1e30], ids=["half", "single"])
def test_huge_logits_stay_finite(scale):
    """Logits at the edge of their dtype give finite losses and gradients, the right ones wrong."""
    dtype = tf.float16 if scale < 1e5 else tf.float32
    logits = tf.constant([[scale, -scale, 0.5 * scale], [scale, scale, -scale]], dtype)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        softmax = losses.softmax_cross_entropy([0, 2], logits)
        smoothed = losses.softmax_cross_entropy([1, 1], logits, label_smoothing=0.1)
        focal = losses.sigmoid_focal([[1, 0, 0], [0, 0, 1]], logits)
        huber = losses.huber([[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]], logits)
    np.testing.assert_allclose(softmax, [0.0, 2 * scale], rtol=1e-3)
    for loss in (softmax, smoothed, focal, huber):
        assert np.isfinite(loss.numpy()).all()
        gradient = tape.gradient(loss, logits).numpy()
        assert np.isfinite(gradient).all()
    np.testing.assert_allclose(tape.gradient(softmax, logits)[1], [0.5, 0.5, -1.0], rtol=1e-3)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_a_label_out_of_range_gives_nan(jit):
    """A wrong label marks its own example with NaN, in loss and gradient, and no other."""
    logits, _, _, _ = _inputs()

    @tf.function(jit_compile=jit)
    def call(labels):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = losses.softmax_cross_entropy(labels, logits, ignore_index=-100)
        return loss, tape.gradient(loss, logits)

    for loss in call(tf.constant([0, 5, 1, -1, -100, 2**33, 4], tf.int64)):
        bad = np.isnan(loss.numpy()).reshape(7, -1)
        np.testing.assert_array_equal(bad.any(1), bad.all(1))
        np.testing.assert_array_equal(bad.all(1), [0, 1, 0, 1, 0, 1, 0])
        assert not loss.numpy()[4].any()


@settings(max_examples=15, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    classes=st.integers(1, 5),
    label_dtype=st.sampled_from([np.uint8, np.int32, np.int64]),
)
def test_softmax_cross_entropy_any_shape(shape, classes, label_dtype):
    """Any leading shape, empty too, any number of classes and integer dtype of labels."""
    rng = np.random.default_rng(11)
    logits = rng.normal(-2.0, 4.0, (*shape, classes))
    labels = rng.integers(0, classes, shape).astype(label_dtype)
    got = losses.softmax_cross_entropy(labels, logits, label_smoothing=0.3)
    np.testing.assert_allclose(got, _softmax_truth(labels, logits, 0.3), rtol=1e-12, atol=1e-14)


def test_unknown_shapes_compile():
    """Batch and classes may be unknown while tracing."""
    logits, labels, _, _ = _inputs(tf.float64)
    call = tf.function(
        lambda y, x: losses.softmax_cross_entropy(y, x, ignore_index=-1, label_smoothing=0.1),
        input_signature=[tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, None], tf.float64)],
    )
    want = _softmax_truth(labels, logits.numpy(), 0.1, ignore=-1)
    np.testing.assert_allclose(call(labels, logits), want, rtol=1e-12)


X, Y = np.ones((3, 4), np.float32), np.array([0, 1, 2])
BAD = {
    "smoothing": lambda: losses.softmax_cross_entropy(Y, X, label_smoothing=1.0),
    "smoothing nan": lambda: losses.softmax_cross_entropy(Y, X, label_smoothing=float("nan")),
    "float labels": lambda: losses.softmax_cross_entropy(Y * 1.0, X),
    "integer logits": lambda: losses.softmax_cross_entropy(Y, X.astype(int)),
    "label shape": lambda: losses.softmax_cross_entropy(Y[:2], X),
    "label rank": lambda: losses.softmax_cross_entropy(Y[:, None], X),
    "soft shape": lambda: losses.softmax_cross_entropy_soft(X[:, :1], X),
    "sigmoid shape": lambda: losses.sigmoid_cross_entropy(X[:, :1], X),
    "alpha": lambda: losses.sigmoid_focal(X, X, alpha=1.1),
    "gamma": lambda: losses.sigmoid_focal(X, X, gamma=-1.0),
    "delta": lambda: losses.huber(X, X, delta=0.0),
    "huber shape": lambda: losses.huber(X[:, :1], X),
    "huber dtype": lambda: losses.huber(X, X.astype(int)),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_bad_arguments_raise(make):
    """A bad argument raises ValueError in one line that says what was found."""
    with pytest.raises(ValueError, match=r"^\w+: .* got .*$"):
        make()
