"""GELU against a float64 truth, TensorFlow and finite differences, under every compiler."""

import math

import numpy as np
import pytest
import tensorflow as tf

from kernels import activations
from tests.kernels.transformer_case import (
    COMPILERS,
    check_derivatives,
    upstream,
    value_and_gradients,
)

TOLERANCE = {tf.float64: 1e-12, tf.float32: 2e-6, tf.float16: 2e-3, tf.bfloat16: 1.5e-2}


def _truth(x, approximate):
    if approximate:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x])


def _both(x):
    return tf.stack([activations.gelu(x), activations.gelu(x, approximate=True)])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.name)
def test_gelu_equals_truth_under_every_compiler(dtype):
    """Both forms are NumPy's on the rounded input; gradients agree in eager, graph and XLA."""
    x = tf.cast(np.random.default_rng(3).normal(-0.4, 2.5, 61), dtype)
    wide = tf.cast(x, tf.float64)
    _, (exact,) = value_and_gradients(_both, [wide], "eager")
    for compiler in COMPILERS:
        value, (gradient,) = value_and_gradients(_both, [x], compiler)
        assert value.dtype == gradient.dtype == dtype
        tolerance = TOLERANCE[dtype]
        for form, approximate in enumerate((False, True)):
            np.testing.assert_allclose(
                tf.cast(value[form], tf.float64),
                _truth(wide.numpy(), approximate),
                rtol=tolerance,
                atol=tolerance,
                err_msg=compiler,
            )
        np.testing.assert_allclose(
            tf.cast(gradient, tf.float64), exact, rtol=tolerance, atol=4 * tolerance
        )


@pytest.mark.parametrize("compiler", ["graph", "xla"])
def test_derivatives_equal_finite_differences(compiler):
    """First and second derivatives of both forms, as each compiler is given them."""
    check_derivatives(_both, [np.random.default_rng(4).normal(0.3, 1.5, 12)], compiler)


def test_gelu_equals_tensorflow():
    """Both forms are tf.nn.gelu's."""
    x = tf.constant(np.random.default_rng(5).normal(0.7, 3.0, (4, 33)), tf.float32)
    for approximate in (False, True):
        np.testing.assert_allclose(
            activations.gelu(x, approximate), tf.nn.gelu(x, approximate), rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("approximate", [False, True])
def test_huge_inputs_stay_finite(approximate):
    """Far out it is x or 0, with slope 1 or 0, though the square of x overflows."""
    x = tf.constant([-3e30, -40.0, 40.0, 3e30])
    _, (gradient,) = value_and_gradients(lambda x: activations.gelu(x, approximate), [x], "eager")
    from_ones = gradient / tf.constant(upstream(x.shape), tf.float32)
    np.testing.assert_allclose(activations.gelu(x, approximate), [0, 0, 40.0, 3e30])
    np.testing.assert_allclose(from_ones, [0, 0, 1, 1], atol=1e-6)


def test_empty_and_integer_inputs():
    """Nothing in, nothing out; an integer is refused in one line."""
    assert activations.gelu(tf.zeros([0, 3], tf.float16)).shape == (0, 3)
    with pytest.raises(ValueError, match=r"^gelu: x must be floating, got int32$"):
        activations.gelu(tf.constant([1, 2]))
