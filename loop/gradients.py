"""Gradients of a step: the sum over replicas, the clip, the finite check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from kernels import clipping, embedding, target
from loop import step_context

Clip = Callable[[Sequence[Any], Sequence[Any]], clipping.Clipped]
Gradient = Any  # tf.Tensor | tf.IndexedSlices | None; TensorFlow is untyped.


def reduce_sum(values: Sequence[Gradient]) -> list[Gradient]:
    """Sums values over the replicas: dense ones of a dtype in one collective, sparse as slices.

    Args:
      values: tensors, IndexedSlices and None; the same kinds on every replica.

    Returns:
      The sums in the same order, equal on every replica; with one replica the values as they are.
    """
    context = step_context.current("reduce_sum")
    reduced: list[Gradient] = list(values)
    kinds: dict[Any, list[int]] = {}
    for place, value in enumerate(values):
        if value is not None:
            # A collective packs tensors of one dtype; slices are gathered.
            kinds.setdefault((type(value), value.dtype), []).append(place)
    for places in kinds.values():
        sums = context.sum_over_replicas([values[place] for place in places])
        for place, total in zip(places, sums, strict=True):
            reduced[place] = total
    return reduced


def reduce_gradients(gradients: Sequence[Gradient]) -> list[Gradient]:
    """Sums a step function's gradients over the replicas.

    A replica sees only its slice of the global batch. With a loss that is the sum over its
    examples divided by `step_context.current(...).batch_size`, the result is the gradient of the
    mean over the global batch on any number of replicas. Call it after the tape and before the
    clip: if the clip came first, two replicas would train another model than one.

    Args:
      gradients: as from `tf.GradientTape.gradient`.

    Returns:
      The reduced gradients, equal on every replica.
    """
    return reduce_sum(gradients)


def clip_gradients(
    gradients: Sequence[Gradient], variables: Sequence[Any], clip: Clip | None = None
) -> clipping.Clipped:
    """Clips reduced gradients, and gives their global norm before.

    A norm that is not finite tells that a gradient is not: `loop.all_finite([loss, clipped.norm])`
    is what decides on the update, and costs no look at the gradients of its own.

    Args:
      gradients: from `reduce_gradients`: of the global batch, or two replicas would clip another
        gradient than one.
      variables: theirs, in the same order.
      clip: one of `kernels.clipping`'s, such as `kernels.ClipByGlobalNorm(1.0)`; None for the norm
        without a clip.

    Returns:
      The `gradients`, the global `norm` before clipping and whether any was `clipped`.
    """
    if clip is None:
        norm = clipping.global_norm(gradients)
        return clipping.Clipped(list(gradients), norm, tf.constant(False))
    return clip(gradients, variables)


def rows_exist(gradients: Sequence[Gradient], variables: Sequence[Any]) -> tf.Tensor:
    """Whether all rows of sparse gradients are rows of their variables: a bool scalar.

    XLA and GPUs gather beyond the end of a table without an error, and the id is in the gradient.
    On a CPU outside XLA the gather itself has refused it: nothing is computed there.

    Args:
      gradients: tensors, IndexedSlices and None.
      variables: theirs.
    """
    compiled_for = target.current()
    if compiled_for.compiler != "xla" and compiled_for.device == "cpu":
        return tf.constant(True)
    checks = [
        tf.reduce_all(embedding.in_range(gradient.indices, variable.shape[0]))
        for gradient, variable in zip(gradients, variables, strict=True)
        if isinstance(gradient, tf.IndexedSlices)
    ]
    return tf.reduce_all(tf.stack(checks)) if checks else tf.constant(True)


def all_finite(values: Sequence[Gradient]) -> tf.Tensor:
    """Whether every element of every value is finite: a bool scalar; global after the reduction."""
    checks = [
        tf.reduce_all(
            tf.math.is_finite(value.values if isinstance(value, tf.IndexedSlices) else value)
        )
        for value in values
        if value is not None
    ]
    return tf.reduce_all(tf.stack(checks)) if checks else tf.constant(True)
