"""GELU with its derivative in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from kernels import target

Gradient = Callable[[tf.Tensor], tf.Tensor]

# The tanh form's constants, Hendrycks and Gimpel, 2016, arXiv:1606.08415.
_LINEAR = math.sqrt(2.0 / math.pi)
_CUBIC = 0.044715 * _LINEAR


def gelu(x: tf.Tensor, approximate: bool = False) -> tf.Tensor:
    """`x * Phi(x)`, Phi being the normal distribution function (arXiv:1606.08415).

    As `tf.nn.gelu`. float16 and bfloat16 are computed in float32.

    Args:
      x: floating, any shape.
      approximate: whether Phi is `(1 + tanh(sqrt(2/pi) * (x + 0.044715 * x**3))) / 2`, within 5e-4
        of the true one and cheaper; if not, it is exact by `erf`.

    Returns:
      x's shape and dtype.

    Raises:
      ValueError: if `x` is not floating.
    """
    x = tf.convert_to_tensor(x)
    if not x.dtype.is_floating:
        raise ValueError(f"gelu: x must be floating, got {x.dtype.name}")
    wide = x if x.dtype == tf.float64 else tf.cast(x, tf.float32)
    form = _tanh_form if approximate else _erf_form
    return tf.cast(tf.custom_gradient(form)(wide), x.dtype)


def _erf_form(x: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
    share = 0.5 + 0.5 * tf.math.erf(x * math.sqrt(0.5))

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        density = tf.exp(-0.5 * x * x) * (1.0 / math.sqrt(2.0 * math.pi))
        return upstream * (share + x * density)

    return x * share, gradient


def _tanh_form(x: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
    # Above 10 in size the share is 0 or 1; with a bound the square of a huge x is not infinite.
    square = tf.minimum(x * x, 100.0)
    inner = x * (2.0 * _LINEAR + 2.0 * _CUBIC * square)
    # The two are equal, (1 + tanh(z / 2)) / 2 = sigmoid(z). XLA is faster with tanh. In graph
    # mode, where each operation has a cost, sigmoid is faster.
    in_xla = target.current().compiler == "xla"
    share = 0.5 + 0.5 * tf.tanh(0.5 * inner) if in_xla else tf.sigmoid(inner)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        slope = tf.raw_ops.SigmoidGrad(y=share, dy=x) * (2.0 * _LINEAR + 6.0 * _CUBIC * square)
        return upstream * (share + slope)

    return x * share, gradient
