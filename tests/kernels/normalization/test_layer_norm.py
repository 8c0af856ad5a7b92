"""Layer norm and RMS norm against float64 NumPy and Keras, under every compiler."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels import target
from tests.kernels.transformer_case import COMPILERS, check_derivatives, value_and_gradients

TOLERANCE = {tf.float64: 1e-12, tf.float32: 1e-5, tf.float16: 4e-3, tf.bfloat16: 3e-2}


def _layer_truth(x, scale, offset, epsilon=1e-6):
    x = np.asarray(x, np.float64)
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon) * scale + offset


def _rms_truth(x, scale, epsilon=1e-6):
    x = np.asarray(x, np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


def _inputs(shape=(3, 5, 9), mean=1.5):
    rng = np.random.default_rng(7)
    width = shape[-1]
    return rng.normal(mean, 2.0, shape), rng.normal(1.0, 0.5, width), rng.normal(-0.5, 1.0, width)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.name)
def test_norms_equal_truth_under_every_compiler(dtype):
    """Values are NumPy's on the rounded inputs; gradients agree in eager, graph and XLA."""
    inputs = [tf.cast(value, dtype) for value in _inputs()]
    x, scale, offset = (tf.cast(value, tf.float64).numpy() for value in inputs)
    truth = np.concatenate([_layer_truth(x, scale, offset, 1e-3), _rms_truth(x, scale)])

    def both(x, scale, offset):
        layer = kernels.layer_norm(x, scale, offset, epsilon=1e-3)
        return tf.concat([layer, kernels.rms_norm(x, scale)], 0)

    _, exact = value_and_gradients(both, [tf.constant(a) for a in (x, scale, offset)], "eager")
    for compiler in COMPILERS:
        value, gradients = value_and_gradients(both, inputs, compiler)
        assert value.dtype == dtype
        tolerance = TOLERANCE[dtype]
        np.testing.assert_allclose(
            tf.cast(value, tf.float64), truth, rtol=tolerance, atol=tolerance, err_msg=compiler
        )
        for got, want in zip(gradients, exact, strict=True):
            assert got.dtype == dtype
            np.testing.assert_allclose(
                tf.cast(got, tf.float64),
                want,
                rtol=tolerance,
                atol=10 * tolerance,
                err_msg=compiler,
            )


@pytest.mark.parametrize("compiler", ["graph", "xla"])
def test_derivatives_equal_finite_differences(compiler):
    """First and second derivatives in x, scale and offset, in the form of each compiler."""
    inputs = _inputs((2, 3, 5))
    check_derivatives(lambda *a: kernels.layer_norm(*a, epsilon=1e-3), inputs, compiler)
    check_derivatives(lambda *a: kernels.rms_norm(*a, epsilon=1e-3), inputs[:2], compiler)


def test_forms_for_a_gpu_agree():
    """The plain reductions traced for a GPU give the values and gradients of the CPU's products."""
    inputs = [tf.constant(value) for value in _inputs()]
    results = []
    for device in ("cpu", "gpu"):
        with target.tracing_for("graph", device), tf.GradientTape() as tape:
            tape.watch(inputs)
            value = kernels.layer_norm(*inputs) * kernels.rms_norm(*inputs[:2])
        results.append([value, *tape.gradient(value, inputs)])
    for cpu, gpu in zip(*results, strict=True):
        np.testing.assert_allclose(cpu, gpu, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_large_mean_is_stable(compiler):
    """With mean 1e4 and deviation 1, float32 stays within the 1e-5 that the docstring states."""
    rng = np.random.default_rng(29)
    x = rng.normal(1e4, 1.0, (64, 128)).astype(np.float32)
    scale, offset = (value.astype(np.float32) for value in _inputs((1, 128))[1:])
    value, gradients = value_and_gradients(
        kernels.layer_norm, [tf.constant(a) for a in (x, scale, offset)], compiler
    )
    np.testing.assert_allclose(value, _layer_truth(x, scale, offset), rtol=0, atol=1e-5)
    exact = value_and_gradients(
        kernels.layer_norm, [tf.constant(a, tf.float64) for a in (x, scale, offset)], "eager"
    )[1]
    np.testing.assert_allclose(gradients[0], exact[0], rtol=0, atol=1e-5)


def test_norms_equal_keras():
    """They are Keras's layers, values and gradients."""
    x, scale, offset = (value.astype(np.float32) for value in _inputs((4, 6, 32)))
    layer = keras.layers.LayerNormalization(epsilon=1e-5)
    rms = keras.layers.RMSNormalization(epsilon=1e-5)
    layer.build(x.shape)
    rms.build(x.shape)
    layer.set_weights([scale, offset])
    rms.set_weights([scale])
    x = tf.constant(x)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        ours = kernels.layer_norm(x, scale, offset, epsilon=1e-5)
        ours_rms = kernels.rms_norm(x, scale, epsilon=1e-5)
        theirs, theirs_rms = layer(x), rms(x)
    for mine, their in ((ours, theirs), (ours_rms, theirs_rms)):
        np.testing.assert_allclose(mine, their, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            tape.gradient(mine, x),
            tape.gradient(their, x),
            rtol=1e-4,
            atol=1e-5,
        )


@settings(max_examples=12, deadline=None)
@given(shape=st.lists(st.integers(0, 4), max_size=3), width=st.integers(1, 7))
def test_any_shape(shape, width):
    """Any leading shape, empty too, and any width down to one."""
    x, scale, offset = _inputs((*shape, width))
    got = kernels.layer_norm(x, scale, offset, epsilon=1e-2)
    np.testing.assert_allclose(got, _layer_truth(x, scale, offset, 1e-2), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(kernels.rms_norm(x, scale), _rms_truth(x, scale), rtol=1e-11)


def test_unknown_batch_and_mixed_precision():
    """The leading axes may be unknown, and the parameters wider than x, as in mixed precision."""
    x, scale, offset = _inputs((3, 4, 6))
    call = tf.function(
        kernels.layer_norm,
        input_signature=[
            tf.TensorSpec([None, None, 6], tf.bfloat16),
            tf.TensorSpec([6], tf.float32),
            tf.TensorSpec([6], tf.float32),
        ],
    )
    got = call(tf.cast(x, tf.bfloat16), tf.cast(scale, tf.float32), tf.cast(offset, tf.float32))
    assert got.dtype == tf.bfloat16
    np.testing.assert_allclose(
        tf.cast(got, tf.float64), _layer_truth(x, scale, offset), rtol=0.05, atol=0.05
    )


X, W = np.ones((3, 4), np.float32), np.ones(4, np.float32)
BAD = {
    "epsilon": lambda: kernels.layer_norm(X, W, W, epsilon=0.0),
    "epsilon nan": lambda: kernels.rms_norm(X, W, epsilon=float("nan")),
    "integer": lambda: kernels.rms_norm(X.astype(int), W),
    "scalar": lambda: kernels.rms_norm(np.float32(1.0), W),
    "scale": lambda: kernels.rms_norm(X, W[:3]),
    "offset": lambda: kernels.layer_norm(X, W, W[None]),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_bad_arguments_raise(make):
    """A bad argument raises ValueError in one line that says what was found."""
    with pytest.raises(ValueError, match=r"^\w+: .* got .*$"):
        make()
