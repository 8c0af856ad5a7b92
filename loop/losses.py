"""What a loss function returns, and a slice's share of its mean over the global batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from loop import step_context
from loop.feeds.feed import Batch
from loop.user_code import called, found

LossFunction = Callable[[Batch], "tf.Tensor | tuple[tf.Tensor, Mapping[str, tf.Tensor]]"]

_LOSS_FN = "GradientStep: loss_fn"


def loss_and_metrics(loss_fn: LossFunction, batch: Batch) -> tuple[Any, Mapping[str, Any]]:
    """The loss and the metrics of a batch; {} where the function returns the loss alone.

    Raises:
      TypeError: on anything that is neither a loss nor (loss, metrics).
    """
    returned = called(_LOSS_FN, loss_fn, batch, takes="the batch")
    loss: Any = returned
    metrics: Any = {}
    if isinstance(returned, tuple) and len(returned) == 2:
        loss, metrics = returned
    if loss is None or isinstance(loss, (tuple, Mapping)) or not isinstance(metrics, Mapping):
        shown = found(returned)
        if loss is not returned:
            shown = f"({found(loss)}, {found(metrics)})"
        raise TypeError(
            f"{_LOSS_FN} expected to return a loss, one value an example or a scalar, or "
            f'(loss, metrics), found {shown}; return loss, or loss, {{"accuracy": accuracy}}'
        )
    return loss, metrics


def mean_share(value: Any, name: str = "loss") -> tf.Tensor:
    """This slice's share of the mean over the global batch: all slices' shares add up to it.

    What a step of one's own differentiates, so that the sum of the gradients over micro-batches
    and replicas is the gradient of the mean, padding left out.

    Args:
      value: one an example of this slice, [B]; or a scalar, which counts as their mean and cannot
        leave out padding.
      name: what it is, for the errors.

    Returns:
      A scalar: float64 if the values are, else float32.

    Raises:
      TypeError: if it is no real number.
      ValueError: on another shape.
    """
    context = step_context.current("mean_share")
    size = context.positions.shape[0]
    value = _number(value, name, size)
    if not value.dtype.is_floating or value.dtype.size < 4:
        value = tf.cast(value, tf.float32)
    if value.shape.rank == 0:
        count = size if context.mask is None else tf.math.count_nonzero(context.mask)
        return value * tf.cast(count, value.dtype) / context.batch_size
    if value.shape != (size,):
        raise ValueError(
            f"GradientStep: {name!r} has shape {value.shape}; expected one value an example, "
            f"({size},), or a scalar"
        )
    if context.mask is not None:
        value = tf.where(context.mask, value, tf.zeros([], value.dtype))
    return tf.reduce_sum(value) / context.batch_size


def _number(value: Any, name: str, size: int) -> tf.Tensor:
    """The value as a tensor of real numbers."""
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError):
        tensor = None
    if tensor is None or not (
        tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool
    ):
        raise TypeError(
            f"{_LOSS_FN} expected {name!r} to be one real number an example, ({size},), or a "
            f"scalar, found {found(value)}; return a tensor of numbers"
        )
    return tensor
