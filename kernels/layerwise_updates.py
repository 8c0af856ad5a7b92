"""Optimizer rules that look at a whole tensor: norms of layers, orthogonal steps of matrices.

As in `kernels.updates`: pure, scalars are tensors of the parameter's dtype, `gradient` is
the direction of increase. They need all of a variable, so there is no form for some of its rows.
"""

from __future__ import annotations

import tensorflow as tf

from kernels.updates import Keep, always


def lars(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    velocity: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    momentum: tf.Tensor,
    weight_decay: float,
    trust: float | None,
    nesterov: bool = False,
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor]:
    """LARS: momentum whose learning rate is scaled by the layer's ratio of norms.

    `r = trust |p| / (|g| + weight_decay |p|)`, `v = mu v + lr r (g + weight_decay p)`, `p - v`. The
    velocity holds steps, as in the paper. The ratio is 1 where one of the norms is 0.

    Args:
      parameter: any shape.
      gradient: same shape.
      velocity: v, same shape.
      learning_rate: scalar.
      momentum: mu, scalar.
      weight_decay: coupled decay.
      trust: the paper's trust coefficient eta; None leaves the ratio out (r = 1).
      nesterov: whether the step is `mu v + lr r (g + weight_decay p)`.
      keep: see `kernels.updates.Keep`.

    Returns:
      The new parameter and velocity.

    Source: You et al. 2017, arXiv:1708.03888, algorithm 1.
    """
    step = learning_rate * (gradient + weight_decay * parameter)
    if trust is not None:
        weight_norm, gradient_norm = _norm(parameter), _norm(gradient)
        denominator = gradient_norm + weight_decay * weight_norm
        step *= _ratio(trust * weight_norm, denominator)
    velocity = keep(momentum * velocity + step, velocity)
    return parameter - (momentum * velocity + step if nesterov else velocity), velocity


def lamb(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    first: tf.Tensor,
    second: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    beta1: tf.Tensor,
    beta2: tf.Tensor,
    epsilon: tf.Tensor,
    correction1: tf.Tensor,
    correction2: tf.Tensor,
    weight_decay: float,
    adapt: bool = True,
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """LAMB: Adam's direction and the decay, scaled to the norm of the layer's weights.

    `u = (m / c1) / (sqrt(v / c2) + epsilon) + weight_decay p`, `p - lr |p| / |u| u`. The ratio is 1
    where one of the norms is 0. Keras's Lamb decays outside the ratio.

    Args:
      parameter: any shape.
      gradient: same shape.
      first: m, same shape.
      second: v, same shape.
      learning_rate: scalar.
      beta1: decay of m.
      beta2: decay of v.
      epsilon: added to the corrected root.
      correction1: `1 - b1^t`.
      correction2: `1 - b2^t`.
      weight_decay: inside the ratio.
      adapt: False leaves the ratio out.
      keep: see `kernels.updates.Keep`.

    Returns:
      The new parameter, m and v.

    Source: You et al. 2020, arXiv:1904.00962, algorithm 2.
    """
    first = keep(first + (1 - beta1) * (gradient - first), first)
    second = keep(second + (1 - beta2) * (tf.square(gradient) - second), second)
    step = (first / correction1) / (tf.sqrt(second / correction2) + epsilon)
    step += weight_decay * parameter
    if adapt:
        step *= _ratio(_norm(parameter), _norm(step))
    return parameter - learning_rate * step, first, second


def muon(
    parameter: tf.Tensor,
    gradient: tf.Tensor,
    velocity: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    momentum: tf.Tensor,
    iterations: int,
    nesterov: bool,
    rms: float | None,
    keep: Keep = always,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Muon: momentum whose step is made orthogonal: `v = mu v + g`, `p - lr scale orth(g + mu v)`.

    Args:
      parameter: rank 2 or more; all axes but the last count as the matrix's rows (inputs).
      gradient: same shape.
      velocity: v, same shape.
      learning_rate: scalar.
      momentum: mu, scalar.
      iterations: Newton-Schulz iterations.
      nesterov: whether the step looks ahead (else it is orth(v)).
      rms: scale = rms sqrt(max(rows, columns)), the root mean square of the step's elements being
        about rms for any shape; None: scale = sqrt(max(1, columns / rows)), Jordan's.
      keep: see `kernels.updates.Keep`.

    Returns:
      The new parameter and velocity.

    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; rms: Liu et al. 2025,
      arXiv:2502.16982.
    """
    velocity = keep(momentum * velocity + gradient, velocity)
    step = gradient + momentum * velocity if nesterov else velocity
    columns = parameter.shape[-1]
    matrix = orthogonalized(tf.reshape(step, [-1, columns]), iterations)
    rows = parameter.shape.num_elements() // max(columns, 1)
    scale = max(1.0, columns / rows) ** 0.5 if rms is None else rms * max(rows, columns) ** 0.5
    return parameter - learning_rate * scale * tf.reshape(matrix, parameter.shape), velocity


def orthogonalized(matrix: tf.Tensor, iterations: int) -> tf.Tensor:
    """About the nearest orthogonal matrix, `U V^T` of the singular value decomposition.

    Newton-Schulz iterations of a quintic, whose coefficients raise small singular values fast and
    leave them between about 0.7 and 1.2 instead of at 1.

    Args:
      matrix: [rows, columns], float32 or float64.
      iterations: 5 in the source.

    Returns:
      A matrix of the same shape.

    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else tf.transpose(matrix)
    x = x / (_norm(x) + 1e-7)  # the Frobenius norm bounds the largest singular value
    for _ in range(iterations):
        gram = tf.matmul(x, x, transpose_b=True)
        polynomial = -4.7750 * gram + 2.0315 * tf.matmul(gram, gram)
        x = 3.4445 * x + tf.matmul(polynomial, x)
    return x if wide else tf.transpose(x)


def _norm(values: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(tf.reduce_sum(tf.square(values)))


def _ratio(numerator: tf.Tensor, denominator: tf.Tensor) -> tf.Tensor:
    """Their quotient; 1 where either is 0: a layer at zero must be able to leave it."""
    both = (numerator > 0) & (denominator > 0)
    return tf.where(both, numerator / denominator, tf.ones_like(numerator))
