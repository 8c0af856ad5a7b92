"""Causal attention against a float64 truth, Keras and finite differences, under every compiler."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import attention
from tests.kernels.transformer_case import COMPILERS, check_derivatives, value_and_gradients

TOLERANCE = {tf.float64: 1e-12, tf.float32: 1e-5, tf.float16: 6e-3, tf.bfloat16: 5e-2}


def _truth(q, k, v, scale=None):
    q, k, v = (np.asarray(value, np.float64) for value in (q, k, v))
    scores = np.einsum("bhid,bhjd->bhij", q, k) * (scale or q.shape[-1] ** -0.5)
    length = q.shape[2]
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    for i in range(length):
        row = scores[:, :, i, : i + 1]
        weights = np.exp(row - row.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[:, :, i] = np.einsum("bhj,bhje->bhe", weights, v[:, :, : i + 1])
    return out


def _inputs(batch=2, heads=3, length=7, depth=4, value_depth=5):
    rng = np.random.default_rng(13)
    q = rng.normal(0.4, 1.5, (batch, heads, length, depth))
    k = rng.normal(-0.3, 1.5, (batch, heads, length, depth))
    return q, k, rng.normal(0.7, 1.0, (batch, heads, length, value_depth))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.name)
def test_attention_equals_truth_under_every_compiler(dtype):
    """Values are NumPy's on the rounded inputs; gradients agree in eager, graph and XLA."""
    inputs = [tf.cast(value, dtype) for value in _inputs()]
    wide = [tf.cast(value, tf.float64) for value in inputs]
    _, exact = value_and_gradients(attention.causal_attention, wide, "eager")
    tolerance = TOLERANCE[dtype]
    for compiler in COMPILERS:
        value, gradients = value_and_gradients(attention.causal_attention, inputs, compiler)
        assert value.dtype == dtype
        np.testing.assert_allclose(
            tf.cast(value, tf.float64),
            _truth(*wide),
            rtol=tolerance,
            atol=tolerance,
            err_msg=compiler,
        )
        for got, want in zip(gradients, exact, strict=True):
            assert got.dtype == dtype
            np.testing.assert_allclose(
                tf.cast(got, tf.float64),
                want,
                rtol=tolerance,
                atol=4 * tolerance,
                err_msg=compiler,
            )


@pytest.mark.parametrize("compiler", ["graph", "xla"])
def test_derivatives_equal_finite_differences(compiler):
    """First and second derivatives in q, k and v, in the form of each compiler."""
    check_derivatives(
        lambda q, k, v: attention.causal_attention(q, k, v, scale=0.7),
        _inputs(1, 2, 4, 3, 2),
        compiler,
    )


def test_attention_equals_keras():
    """It is Keras's dot_product_attention, which has tokens before heads."""
    q, k, v = (tf.constant(value, tf.float32) for value in _inputs(value_depth=4))

    def swapped(x):
        return tf.transpose(x, [0, 2, 1, 3])

    for scale in (None, 0.3):
        theirs = keras.ops.dot_product_attention(
            swapped(q), swapped(k), swapped(v), is_causal=True, scale=scale
        )
        ours = attention.causal_attention(q, k, v, scale=scale)
        np.testing.assert_allclose(ours, swapped(theirs), rtol=2e-5, atol=2e-6)


def test_the_future_has_no_influence():
    """Other keys and values from a position on change nothing before it, to the last bit."""
    q, k, v = (value.astype(np.float32) for value in _inputs())
    later_k, later_v = k.copy(), v.copy()
    later_k[:, :, 4:] *= -7.0
    later_v[:, :, 4:] += 100.0
    before = attention.causal_attention(q, k, v)
    after = attention.causal_attention(q, later_k, later_v)
    np.testing.assert_array_equal(before[:, :, :4], after[:, :, :4])
    assert not np.allclose(before[:, :, 4:], after[:, :, 4:])


@pytest.mark.parametrize("compiler", ["graph", "xla"])
def test_huge_scores_stay_finite(compiler):
    """Scores of 1e8 in float32, and products past float16's range, give finite values."""
    q, k, v = _inputs(depth=64)
    for dtype, factor in ((tf.float32, 1e4), (tf.float16, 80.0)):
        inputs = [tf.cast(value, dtype) for value in (q * factor, k * factor, v)]
        value, gradients = value_and_gradients(attention.causal_attention, inputs, compiler)
        for tensor in (value, *gradients):
            assert np.isfinite(tf.cast(tensor, tf.float32).numpy()).all()


@settings(max_examples=12, deadline=None)
@given(
    batch=st.integers(0, 3),
    heads=st.integers(1, 3),
    length=st.integers(1, 6),
    depth=st.integers(1, 5),
    value_depth=st.integers(1, 5),
)
def test_any_shape(batch, heads, length, depth, value_depth):
    """An empty batch, one token, one head, odd sizes."""
    q, k, v = _inputs(batch, heads, length, depth, value_depth)
    got = attention.causal_attention(q, k, v)
    np.testing.assert_allclose(got, _truth(q, k, v), rtol=1e-11, atol=1e-12)


def test_unknown_batch_and_length_compile():
    """Batch and length may be unknown while tracing."""
    inputs = _inputs(value_depth=4)
    spec = tf.TensorSpec([None, 3, None, 4], tf.float64)
    call = tf.function(attention.causal_attention, input_signature=[spec, spec, spec])
    np.testing.assert_allclose(call(*inputs), _truth(*inputs), rtol=1e-11)


Q = np.ones((2, 3, 4, 5), np.float32)
BAD = {
    "rank": lambda: attention.causal_attention(Q[0], Q[0], Q[0]),
    "depth": lambda: attention.causal_attention(Q, Q[..., :4], Q),
    "length": lambda: attention.causal_attention(Q, Q, Q[:, :, :3]),
    "dtype": lambda: attention.causal_attention(Q, Q.astype(np.float64), Q),
    "integer": lambda: attention.causal_attention(*[Q.astype(int)] * 3),
    "scale": lambda: attention.causal_attention(Q, Q, Q, scale=float("inf")),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_bad_arguments_raise(make):
    """A bad argument raises ValueError in one line that says what was found."""
    with pytest.raises(ValueError, match=r"^causal_attention: .* got .*$"):
        make()
