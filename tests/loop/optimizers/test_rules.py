"""The update rules against the papers' formulas, their scalars against long doubles."""

import numpy as np
import pytest
import tensorflow as tf

from loop.optimizers.adam import nadam_shares
from loop.optimizers.bias_correction import one_minus_power
from loop.optimizers.layerwise import lamb_rule, lars_rule
from loop.optimizers.lion import lion_rule
from loop.optimizers.muon import muon_rule, orthogonalized

_STEPS = 12


def _draw(shape=(5, 3), seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0.6, 1, shape), rng.normal(-0.2, 1.5, (_STEPS, *shape))


def _scalars(**values):
    return {name: tf.constant(value, tf.float64) for name, value in values.items()}


def _norm(x):
    return np.sqrt(np.sum(x * x))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("trust", [None, 0.02])
def test_lars_is_algorithm_1(nesterov, trust):
    """LARS follows You et al. 2017: the decay in the gradient, the rate in the velocity."""
    weights, gradients = _draw()
    p, v = tf.constant(weights), tf.zeros_like(weights)
    w, velocity = weights.copy(), np.zeros_like(weights)
    for t, g in enumerate(gradients):
        rate = 0.5 / (1 + t)
        p, v = lars_rule(
            p, tf.constant(g), v, weight_decay=0.1, trust=trust, nesterov=nesterov,
            **_scalars(learning_rate=rate, momentum=0.8),
        )  # fmt: skip
        local = 1.0 if trust is None else trust * _norm(w) / (_norm(g) + 0.1 * _norm(w))
        step = rate * local * (g + 0.1 * w)
        velocity = 0.8 * velocity + step
        w = w - (0.8 * velocity + step if nesterov else velocity)
    np.testing.assert_allclose(p, w, rtol=1e-12)
    np.testing.assert_allclose(v, velocity, rtol=1e-12)


@pytest.mark.parametrize("adapt", [False, True])
def test_lamb_is_algorithm_2(adapt):
    """LAMB follows You et al. 2020: the decay inside the trust ratio."""
    weights, gradients = _draw(seed=1)
    p, m, v = tf.constant(weights), tf.zeros_like(weights), tf.zeros_like(weights)
    w, first, second = weights.copy(), np.zeros_like(weights), np.zeros_like(weights)
    for t, g in enumerate(gradients, start=1):
        p, m, v = lamb_rule(
            p, tf.constant(g), m, v, weight_decay=0.1, adapt=adapt,
            **_scalars(
                learning_rate=0.05, beta1=0.8, beta2=0.95, epsilon=1e-6,
                correction1=1 - 0.8**t, correction2=1 - 0.95**t,
            ),
        )  # fmt: skip
        first = 0.8 * first + 0.2 * g
        second = 0.95 * second + 0.05 * g**2
        r = first / (1 - 0.8**t) / (np.sqrt(second / (1 - 0.95**t)) + 1e-6) + 0.1 * w
        w = w - 0.05 * (_norm(w) / _norm(r) if adapt else 1) * r
    np.testing.assert_allclose(p, w, rtol=1e-11)


def test_a_layer_at_zero_moves():
    """Where a norm is 0 the trust ratio is 1, in LARS and LAMB, with no NaN."""
    zeros, gradient = tf.zeros([4], tf.float64), tf.constant([1.0, -2.0, 0.5, 0.0], tf.float64)
    p, _ = lars_rule(
        zeros, gradient, zeros, weight_decay=0.0, trust=0.01,
        **_scalars(learning_rate=0.1, momentum=0.9),
    )  # fmt: skip
    np.testing.assert_allclose(p, -0.1 * gradient, rtol=1e-12)
    p, _, _ = lamb_rule(
        zeros, gradient, zeros, zeros, weight_decay=0.0,
        **_scalars(
            learning_rate=0.1, beta1=0.9, beta2=0.99, epsilon=0.0, correction1=0.1,
            correction2=0.01,
        ),
    )  # fmt: skip
    np.testing.assert_allclose(p[:3], -0.1 * np.sign(gradient[:3]), rtol=1e-12)
    p, _ = lars_rule(
        gradient, zeros, zeros, weight_decay=0.0, trust=0.01,
        **_scalars(learning_rate=0.1, momentum=0.9),
    )  # fmt: skip
    np.testing.assert_array_equal(p, gradient)


def test_lion_is_algorithm_2():
    """Lion follows Chen et al. 2023: sign of the interpolation, then the momentum."""
    weights, gradients = _draw(seed=2)
    p, m = tf.constant(weights), tf.zeros_like(weights)
    w, momentum = weights.copy(), np.zeros_like(weights)
    for g in gradients:
        p, m = lion_rule(p, tf.constant(g), m, **_scalars(learning_rate=0.03, beta1=0.7, beta2=0.9))
        w = w - 0.03 * np.sign(0.7 * momentum + 0.3 * g)
        momentum = 0.9 * momentum + 0.1 * g
    np.testing.assert_allclose(p, w, rtol=1e-12)
    np.testing.assert_allclose(m, momentum, rtol=1e-12)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6, 6), (3, 2, 2, 7)])
@pytest.mark.parametrize("rms", [None, 0.2])
def test_muon_is_jordans(shape, rms):
    """Muon follows the reference: Nesterov momentum, Newton-Schulz, the scale of the shape."""
    weights, gradients = _draw(shape, seed=3)
    p, v = tf.constant(weights), tf.zeros_like(weights)
    w, velocity = weights.copy(), np.zeros_like(weights)
    rows, columns = int(np.prod(shape[:-1])), shape[-1]
    for g in gradients[:4]:
        p, v = muon_rule(
            p, tf.constant(g), v, iterations=5, nesterov=True, rms=rms,
            **_scalars(learning_rate=0.1, momentum=0.9),
        )  # fmt: skip
        velocity = 0.9 * velocity + g
        x = (g + 0.9 * velocity).reshape(rows, columns)
        x = x / (_norm(x) + 1e-7)
        for _ in range(5):  # on the wide side or the tall one, the polynomial is the same
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        scale = (
            np.sqrt(max(1, columns / rows)) if rms is None else rms * np.sqrt(max(rows, columns))
        )
        w = w - 0.1 * scale * x.reshape(shape)
    np.testing.assert_allclose(p, w, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (1, 4)])
def test_orthogonalized_keeps_directions_and_evens_out_lengths(shape):
    """The result has the singular vectors of its input and singular values near 1."""
    matrix = _draw(shape, seed=4)[0]
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    rotated = u.T @ orthogonalized(tf.constant(matrix), 5).numpy() @ vt.T
    np.testing.assert_allclose(rotated - np.diag(np.diag(rotated)), 0, atol=1e-9)
    assert np.all((np.diag(rotated) > 0.6) & (np.diag(rotated) < 1.3))


@pytest.mark.parametrize("count", [1, 2, 999, 1000, 1001, 2**24 + 1, 2**31 - 1, 2**31 + 7])
@pytest.mark.parametrize("base", [0.0, 0.9, 0.999, 0.9999999])
def test_one_minus_power_is_exact_at_any_count(base, count):
    """1 - base^count holds its digits where the plain form cancels, 2^31 included."""
    got = one_minus_power(base, tf.constant(count, tf.float64)).numpy()
    logarithm = np.log(np.longdouble(base)) if base else -np.inf
    np.testing.assert_allclose(got, float(-np.expm1(count * logarithm)), rtol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 30, 999, 1000, 1001, 5000])
def test_nadam_shares_are_the_running_product(count):
    """The closed form equals the product that Keras keeps in a variable."""
    beta1 = 0.9999
    mu = beta1 * (1 - 0.5 * 0.96 ** np.arange(1, count + 2, dtype=np.longdouble))
    product = np.prod(mu[:-1])
    momentum, gradient = nadam_shares(
        tf.constant(0.5, tf.float64), tf.constant(count, tf.float64), beta1=beta1
    )
    np.testing.assert_allclose(momentum, float(0.5 * mu[-1] / (1 - product * mu[-1])), rtol=1e-10)
    np.testing.assert_allclose(gradient, float(0.5 * (1 - mu[-2]) / (1 - product)), rtol=1e-10)
