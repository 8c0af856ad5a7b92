"""The optimizers' elementwise rules: one parameter, its slots and its gradient in, new ones out.

Each rule is a pure function of tensors of one shape and float dtype; scalars are tensors of that
dtype. XLA turns each into one pass over the parameter, its slots and its gradient. Where TensorFlow
and Keras differ (the place of epsilon, what the momentum holds) the docstring says which is meant.
`gradient` points uphill: rules subtract.
"""

from __future__ import annotations

import tensorflow as tf


def sgd(parameter: tf.Tensor, gradient: tf.Tensor, *, learning_rate: tf.Tensor) -> tf.Tensor:
    """Gradient descent: `p - lr g`.

    Source: `tf.compat.v1.train.GradientDescentOptimizer`.
    """
    return parameter - learning_rate * gradient


def momentum(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    velocity: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    momentum: tf.Tensor,
    nesterov: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Momentum: `v = mu v + g`, `p - lr v`; with nesterov `p - lr (g + mu v)`.

    The velocity holds gradients, as in compat.v1: a new learning rate acts at once. Keras's holds
    steps (`v = mu v - lr g`), which is the same only while the learning rate is constant.

    Returns:
      The new parameter and velocity.

    Source: Sutskever et al. 2013; `tf.compat.v1.train.MomentumOptimizer`.
    """
    velocity = momentum * velocity + gradient
    step = gradient + momentum * velocity if nesterov else velocity
    return parameter - learning_rate * step, velocity


def adam(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    first: tf.Tensor,
    second: tf.Tensor,
    *,
    step_size: tf.Tensor,
    beta1: tf.Tensor,
    beta2: tf.Tensor,
    epsilon: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Adam: `m += (1-b1)(g-m)`, `v += (1-b2)(g^2-v)`, `p - step_size m / (sqrt(v) + epsilon)`.

    Epsilon is the paper's "epsilon hat" (the form before section 2.1), as in compat.v1 and Keras:
    it is added to the root of the uncorrected v.

    Args:
      parameter: any shape.
      gradient: same shape.
      first: m, same shape.
      second: v, same shape.
      step_size: the learning rate with both bias corrections, see `adam_step_size`.
      beta1: decay of m.
      beta2: decay of v.
      epsilon: added to the root.

    Returns:
      The new parameter, m and v.

    Source: Kingma and Ba 2015, arXiv:1412.6980; `tf.compat.v1.train.AdamOptimizer`.
    """
    first = first + (1 - beta1) * (gradient - first)
    second = second + (1 - beta2) * (tf.square(gradient) - second)
    return parameter - step_size * first / (tf.sqrt(second) + epsilon), first, second


def rounded(value: float, dtype: tf.DType) -> float:
    """The value as `dtype` holds it.

    A moment decays by the beta of its dtype. In float32 1 - 0.999999 is 1.3% off, and a correction
    by the exact beta would leave that error in the step; by the rounded one it cancels.
    """
    return float(dtype.as_numpy_dtype(value))


def one_minus_power(base: float, count: tf.Tensor) -> tf.Tensor:
    """`1 - base^count`, without the cancellation of the plain form.

    Args:
      base: in [0, 1).
      count: scalar float64 (exact to 2^53), at least 1.

    Returns:
      A float64 scalar, accurate to rounding for any count.
    """
    if base == 0:
        return tf.ones([], tf.float64)
    return -tf.math.expm1(count * tf.math.log(tf.constant(base, tf.float64)))


def adam_step_size(
    learning_rate: tf.Tensor, count: tf.Tensor, *, beta1: float, beta2: float
) -> tf.Tensor:
    """Adam's learning rate times its bias corrections: `lr sqrt(1 - b2^t) / (1 - b1^t)`.

    Args:
      learning_rate: scalar float64.
      count: t, scalar float64: this update's number, from 1.
      beta1: decay of m.
      beta2: decay of v.

    Returns:
      A float64 scalar.
    """
    correction = tf.sqrt(one_minus_power(beta2, count)) / one_minus_power(beta1, count)
    return learning_rate * correction
