"""What a step may know of its place in the run: seed, global step, positions, mask, replicas.

Layers that draw random bits (Dropout) or keep statistics (BatchNorm) need these without every
model passing them as arguments. The compiled loop sets the context around each step while tracing;
outside a step there is none, and asking for it raises.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class MovingAverage:
    """One batch's contribution to a moving average, held back until the step is known to be finite.

    Attributes:
      variable: the moving average, any shape.
      value: this batch's value, same shape.
      momentum: the share of the old value kept, in [0, 1].
      weight: how many examples the value comes from, a scalar; slices are averaged by it, and a
        total of zero leaves the variable as it is.
    """

    variable: tf.Variable
    value: tf.Tensor
    momentum: float
    weight: tf.Tensor


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


@dataclasses.dataclass
class StepContext:
    """The place of the traced step in the run.

    Attributes:
      seed: int64 scalar, the run's seed.
      global_step: int64 scalar, the number of steps done before this one.
      positions: int32 [B], each local example's position in the global batch.
      mask: bool [B], False for the padding of an unequal slice; None when nothing is padded.
      batch_size: examples in the global batch.
      replicas: number of replicas in the run.
      all_reduce_sum: sums tensors over the replicas in one packed collective; None with one.
      collectives: how many of these were traced so far, the backward pass's included.
      region: compiles a function of tensors by itself where the whole step cannot be (XLA under
        replicas, whose collectives stay outside) or should not be (see `loop.compiled.regions`);
        elsewhere the function as it is.
      moving_averages: what BatchNorm and similar layers recorded; committed after the finite check.
      state: name -> variable, what the run saves, without the counter of steps; {} where nothing
        that the step assigns has to be decided on.
    """

    seed: tf.Tensor
    global_step: tf.Tensor
    positions: tf.Tensor
    mask: tf.Tensor | None
    batch_size: int
    replicas: int = 1
    all_reduce_sum: Callable[[list[tf.Tensor]], list[tf.Tensor]] | None = None
    region: Callable[[Callable[..., Any]], Callable[..., Any]] = _plain
    moving_averages: list[MovingAverage] = dataclasses.field(default_factory=list)
    collectives: int = 0
    state: Mapping[str, tf.Variable] = dataclasses.field(default_factory=dict)

    def sum_over_replicas(self, values: list[tf.Tensor]) -> list[tf.Tensor]:
        """Sums tensors over the replicas, counting the collective; with one, as they are."""
        if self.all_reduce_sum is None:
            return values
        self.collectives += 1
        return self.all_reduce_sum(values)

    def record(
        self, variable: tf.Variable, value: tf.Tensor, momentum: float, weight: tf.Tensor
    ) -> None:
        """Notes this batch's value of a moving average; the step commits it if it is finite."""
        self.moving_averages.append(MovingAverage(variable, value, momentum, weight))


_context: contextvars.ContextVar[StepContext | None] = contextvars.ContextVar("step", default=None)


def current_or_none() -> StepContext | None:
    """The traced step's context, or None outside a step."""
    return _context.get()


def current(asker: str) -> StepContext:
    """The traced step's context.

    Args:
      asker: who asks, for the error message.

    Raises:
      RuntimeError: outside a step.
    """
    context = _context.get()
    if context is None:
        raise RuntimeError(
            f"{asker}: called outside a training step, where there is no seed, global step or "
            "batch position; run it through loop.Trainer, or inside `with step_context.within(...)`"
        )
    return context


@contextlib.contextmanager
def within(context: StepContext) -> Iterator[StepContext]:
    """Makes `context` the current one inside the `with` block."""
    token = _context.set(context)
    try:
        yield context
    finally:
        _context.reset(token)
