"""Accumulation: a batch computed in micro-batches, whose results are added up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from loop import statistics, step_context
from loop.step_context import MovingAverage, StepContext

Nest = Any  # of tensors, IndexedSlices and None


def accumulate(function: Callable[[Any], Nest], batch: Any, count: int) -> Nest:
    """The sum of what a function gives for each micro-batch of a step's batch.

    For a step of one's own, as `GradientStep(accumulate=)` does it: the function takes the tape's
    gradients of its share of the mean (`loop.mean_share`), and the sum is reduced once. Each
    micro-batch has its own positions and mask in the step's context. Statistics of layers are
    recorded as the mean over the micro-batches. In memory is one micro-batch's activations, unless
    gradients are sparse or the function has a collective: these are not computed in a loop.

    Args:
      function: micro-batch -> nest of tensors, IndexedSlices and None, of equal shapes each time.
      batch: what the step was given, a nest of tensors [B, ...].
      count: micro-batches, at least 1; B must be a multiple. A step function with an attribute
        `accumulate` of this number has its slices padded to that on several replicas.

    Returns:
      The sums, as the function's nest.

    Raises:
      ValueError: if count is below 1, or the batch is no multiple of it.
    """
    context = step_context.current("accumulate")
    size = context.positions.shape[0]
    if count < 1 or size % count:
        raise ValueError(
            f"accumulate: a slice of {size} examples expected to be a multiple of the micro-batches"
            f", found {count}; choose another batch size or number, or set the step function's "
            "attribute `accumulate`, by which slices are padded"
        )
    if count == 1:
        return function(batch)
    recorded: list[MovingAverage] = []

    def of(index: int | tf.Tensor) -> tuple[Nest, Any]:
        piece, inner = micro_batch(batch, context, count, index)
        with step_context.within(inner):
            found = function(piece)
        recorded[:] = recorded or inner.moving_averages
        collectives.append(inner.collectives)
        return found, statistics.weighted(inner.moving_averages)

    collectives: list[int] = []
    total = of(0)
    first = list(recorded)
    if any(isinstance(leaf, tf.IndexedSlices) for leaf in tf.nest.flatten(total)) or any(
        collectives
    ):
        # Slices grow by concatenation, which a loop of static shapes cannot do; and a collective
        # (synchronised BatchNorm) cannot be in a replica's loop.
        for index in range(1, count):
            total = added(total, of(index))
    else:
        total = _in_a_loop(of, total, count)
    sums, (values, weights) = total
    for average, value, weight in zip(first, values, weights, strict=True):
        mean = tf.math.divide_no_nan(value, weight)
        context.record(average.variable, mean, average.momentum, weight)
    return sums


def _in_a_loop(of: Callable[[tf.Tensor], Nest], first: Nest, count: int) -> Nest:
    """The first micro-batch's results and those of the others."""
    flat = tf.nest.flatten(first)
    present = [leaf is not None for leaf in flat]

    def tensors(nest: Nest) -> list[tf.Tensor]:
        return [leaf for leaf in tf.nest.flatten(nest) if leaf is not None]

    def add_next(index: tf.Tensor, sums: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        return index + 1, [a + b for a, b in zip(sums, tensors(of(index)), strict=True)]

    _, sums = tf.while_loop(
        lambda index, _: index < count,
        add_next,
        (tf.constant(1), tensors(first)),
        parallel_iterations=1,
    )
    given = iter(sums)
    return tf.nest.pack_sequence_as(first, [next(given) if one else None for one in present])


def micro_batch(
    batch: Any, context: StepContext, count: int, index: int | tf.Tensor
) -> tuple[Any, StepContext]:
    """One of `count` micro-batches, and the step's context in it."""

    def piece(tensor: tf.Tensor) -> tf.Tensor:
        size = tensor.shape[0] // count
        return tf.reshape(tensor, [count, size, *tensor.shape[1:]])[index]

    mask = None if context.mask is None else piece(context.mask)
    inner = dataclasses.replace(
        context,
        positions=piece(context.positions),
        mask=mask,
        collectives=0,
        moving_averages=[],
    )
    return tf.nest.map_structure(piece, batch), inner


def added(left: Nest, right: Nest) -> Nest:
    """The sum of two nests of equal structure; of slices all rows of both."""

    def add(a: Any, b: Any) -> Any:
        if isinstance(a, tf.IndexedSlices):
            values = tf.concat([a.values, b.values], 0)
            return tf.IndexedSlices(values, tf.concat([a.indices, b.indices], 0), a.dense_shape)
        return None if a is None else a + b

    pairs = zip(tf.nest.flatten(left), tf.nest.flatten(right), strict=True)
    return tf.nest.pack_sequence_as(left, [add(a, b) for a, b in pairs])
