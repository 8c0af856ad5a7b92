"""The optimizers' elementwise rules: one parameter, its slots and its gradient in, new ones out.

Each rule is a pure function of tensors of one shape and float dtype; scalars are tensors of that
dtype. XLA turns each into one pass over the parameter, its slots and its gradient. Where TensorFlow
and Keras differ (the place of epsilon, what the momentum holds) the docstring says which is meant.
`gradient` is the direction of increase: rules subtract.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

Keep = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""(new, old) -> what the slot becomes. A loop that skips a step that is not finite chooses the old
value here, before the parameter's step is formed from it: chosen after the rule, XLA would compute
the slots a second time for the parameter, from copies of the old ones."""


def always(new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
    """The `Keep` of an update that is never skipped: the new value."""
    del old
    return new


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
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Momentum: `v = mu v + g`, `p - lr v`; with nesterov `p - lr (g + mu v)`.

    The velocity holds gradients, as in compat.v1: a new rate acts immediately. Keras's holds
    steps (`v = mu v - lr g`), which is the same only while the learning rate is constant.

    Returns:
      The new parameter and velocity.

    Source: Sutskever et al. 2013; `tf.compat.v1.train.MomentumOptimizer`.
    """
    velocity = keep(momentum * velocity + gradient, velocity)
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
    keep: Keep = always,
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
      keep: see `Keep`.

    Returns:
      The new parameter, m and v.

    Source: Kingma and Ba 2015, arXiv:1412.6980; `tf.compat.v1.train.AdamOptimizer`.
    """
    first = keep(first + (1 - beta1) * (gradient - first), first)
    second = keep(second + (1 - beta2) * (tf.square(gradient) - second), second)
    return parameter - step_size * first / (tf.sqrt(second) + epsilon), first, second


def amsgrad(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    first: tf.Tensor,
    second: tf.Tensor,
    largest: tf.Tensor,
    *,
    step_size: tf.Tensor,
    beta1: tf.Tensor,
    beta2: tf.Tensor,
    epsilon: tf.Tensor,
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Adam divided by the root of the largest v so far, uncorrected: `vhat = max(vhat, v)`.

    Args: as `adam`'s, and
      largest: vhat, same shape.

    Returns:
      The new parameter, m, v and vhat.

    Source: Reddi et al. 2018, arXiv:1904.09237; `keras.optimizers.Adam(amsgrad=True)`.
    """
    first = keep(first + (1 - beta1) * (gradient - first), first)
    second = keep(second + (1 - beta2) * (tf.square(gradient) - second), second)
    largest = keep(tf.maximum(largest, second), largest)
    new = parameter - step_size * first / (tf.sqrt(largest) + epsilon)
    return new, first, second, largest


def nadam(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    first: tf.Tensor,
    second: tf.Tensor,
    *,
    momentum_share: tf.Tensor,
    gradient_share: tf.Tensor,
    correction: tf.Tensor,
    beta1: tf.Tensor,
    beta2: tf.Tensor,
    epsilon: tf.Tensor,
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Adam with Nesterov's momentum, epsilon added after the bias correction.

    `p - (momentum_share m + gradient_share g) / (sqrt(v / correction) + epsilon)`, the shares with
    the learning rate and the momentum schedule in them, see `nadam_shares`.

    Returns:
      The new parameter, m and v.

    Source: Dozat 2016; `keras.optimizers.Nadam`.
    """
    first = keep(first + (1 - beta1) * (gradient - first), first)
    second = keep(second + (1 - beta2) * (tf.square(gradient) - second), second)
    step = momentum_share * first + gradient_share * gradient
    return parameter - step / (tf.sqrt(second / correction) + epsilon), first, second


# Above this count the factor 1 - 0.96^i / 2 of the momentum schedule is 1 in float64.
_SCHEDULED_MOMENTA = 1000


def nadam_shares(
    learning_rate: tf.Tensor, count: tf.Tensor, *, beta1: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """The weights of m and of the gradient in Nadam's step, with the learning rate.

    The momentum schedule is `mu_i = beta1 (1 - 0.96^i / 2)`, as in Keras (the paper slows it by
    250). Its product over the updates done has the closed form `beta1^t P(t)` with a P that is
    constant from 1000 on, so no running product is kept.

    Args:
      learning_rate: scalar float64.
      count: t, scalar float64, from 1.
      beta1: decay of m.

    Returns:
      Two float64 scalars.
    """
    factors = 1 - 0.5 * 0.96 ** np.arange(1, _SCHEDULED_MOMENTA + 2)
    products = tf.constant(np.cumprod(factors))
    capped = tf.cast(tf.minimum(count, _SCHEDULED_MOMENTA), tf.int32)
    now = beta1 * tf.gather(tf.constant(factors), capped - 1)
    after = beta1 * tf.gather(tf.constant(factors), capped)
    power = 1 - one_minus_power(beta1, count)
    product = power * tf.gather(products, capped - 1)
    share = learning_rate * after / (1 - product * after)
    return share, learning_rate * (1 - now) / (1 - product)


def adagrad(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    accumulator: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    epsilon: tf.Tensor,
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Adagrad: `a += g^2`, `p - lr g / sqrt(a + epsilon)`.

    Epsilon is inside the root as in Keras; compat.v1 has none.

    Returns:
      The new parameter and accumulator.

    Source: Duchi et al. 2011; `tf.compat.v1.train.AdagradOptimizer`.
    """
    accumulator = keep(accumulator + tf.square(gradient), accumulator)
    return parameter - learning_rate * gradient / tf.sqrt(accumulator + epsilon), accumulator


def rmsprop(
    gradient: tf.Tensor,
    mean_square: tf.Tensor,
    mean: tf.Tensor | None,
    *,
    learning_rate: tf.Tensor,
    rho: tf.Tensor,
    epsilon: tf.Tensor,
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """RMSProp's step: `s += (1-rho)(g^2-s)`, `lr g / sqrt(s + epsilon)`.

    With `mean`, the centered form: the root of `s - mean^2 + epsilon`. Epsilon is inside the
    root, as in compat.v1 and Keras.

    Returns:
      The step to subtract (or to gather momentum with), the new mean square and mean.

    Source: Hinton's lecture 6e; centered: Graves 2013, arXiv:1308.0850, eq. 38 to 45;
      `tf.compat.v1.train.RMSPropOptimizer`.
    """
    mean_square = keep(mean_square + (1 - rho) * (tf.square(gradient) - mean_square), mean_square)
    variance = mean_square
    if mean is not None:
        mean = keep(mean + (1 - rho) * (gradient - mean), mean)
        variance = mean_square - tf.square(mean)
    return learning_rate * gradient / tf.sqrt(variance + epsilon), mean_square, mean


def adadelta(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    mean_square: tf.Tensor,
    step_square: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    rho: tf.Tensor,
    epsilon: tf.Tensor,
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Adadelta: the step is `g sqrt(u + epsilon) / sqrt(s + epsilon)`, u the mean of its squares.

    Returns:
      The new parameter, mean of the gradient's squares s and of the step's squares u.

    Source: Zeiler 2012, arXiv:1212.5701; `tf.compat.v1.train.AdadeltaOptimizer`.
    """
    mean_square = keep(mean_square + (1 - rho) * (tf.square(gradient) - mean_square), mean_square)
    step = gradient * tf.sqrt(step_square + epsilon) / tf.sqrt(mean_square + epsilon)
    step_square = keep(step_square + (1 - rho) * (tf.square(step) - step_square), step_square)
    return parameter - learning_rate * step, mean_square, step_square


def lion(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    momentum: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    beta1: tf.Tensor,
    beta2: tf.Tensor,
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Lion: `p - lr sign(b1 m + (1-b1) g)`, then `m = b2 m + (1-b2) g`.

    Returns:
      The new parameter and momentum.

    Source: Chen et al. 2023, arXiv:2302.06675, algorithm 2; `keras.optimizers.Lion`.
    """
    direction = tf.sign(momentum + (1 - beta1) * (gradient - momentum))
    momentum = keep(momentum + (1 - beta2) * (gradient - momentum), momentum)
    return parameter - learning_rate * direction, momentum


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
