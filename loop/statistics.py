"""Statistics of a step: what layers record, and what they assign themselves, as one mean.

A layer of ours records its batch's moments in the step's context. One of Keras, or of a user,
assigns its variables in the forward pass: on every replica its own copy, before anybody has looked
at the gradients. The trace tells which (`loop.compiled.trace`). On several replicas such a value is
taken back and recorded, so that it rides in the packed collective of the gradients and every copy
gets the mean; on one it is kept as it is. Both change only if the step is finite.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import tensorflow as tf

from loop import handles
from loop.compiled.undo import Before
from loop.step_context import MovingAverage, StepContext
from loop.variables import State, components, listed

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Assigned:
    """A variable that was assigned, and stays so if the step is finite.

    Attributes:
      variable: any dtype and shape.
      old: its value before, on this replica.
      new: its value now.
    """

    variable: tf.Variable
    old: tf.Tensor
    new: tf.Tensor

    def keep_if(self, finite: tf.Tensor) -> None:
        """Puts the old value back where the step is not finite."""
        handles.write(self.variable, tf.where(finite, self.new, self.old))


def assigned_since(
    before: Before, state: State, context: StepContext
) -> tuple[list[MovingAverage], list[Assigned]]:
    """What was assigned since `before`, by what becomes of it.

    Args:
      before: the state then, on this replica.
      state: name -> variable, as `before` was made of.
      context: the step's.

    Returns:
      What is averaged over the replicas, taken back for now; and what is kept as it is: on one
      replica everything, on several what TensorFlow itself aggregates at the assignment.

    Raises:
      ValueError: on several replicas, if one is no floating variable and has no aggregation: the
        replicas' copies would differ and have no mean.
    """
    averages: dict[str, MovingAverage] = {}
    kept: list[Assigned] = []
    without_mean: list[str] = []
    for name, (old, new) in before.written().items():
        variable = state[name]
        if context.replicas == 1 or variable.aggregation != tf.VariableAggregation.NONE:
            kept.append(Assigned(variable, old, new))
        elif variable.dtype.is_floating:
            handles.write(variable, old)
            averages[name] = MovingAverage(variable, new, 0.0, _examples(context))
        else:
            without_mean.append(name)
    if without_mean:
        raise ValueError(
            f"Trainer: on {context.replicas} replicas the forward pass assigns "
            f"{listed(without_mean)}, each replica its own copy; expected floating variables, of "
            "which the mean is kept; make it one, or with aggregation='only_first_replica' "
            "(tf.VariableAggregation.ONLY_FIRST_REPLICA) if the first's value is right for all, "
            "or, where no resume needs it, give it to `scratch=`"
        )
    _say(averages, context)
    return list(averages.values()), kept


def _say(averages: dict[str, MovingAverage], context: StepContext) -> None:
    """Logs, for the first replica, what is averaged."""
    variables = [average.variable for average in averages.values()]
    if any(variable.handle is components(variable)[0].handle for variable in variables):
        _log.info(
            "%d replicas: the forward pass assigns %s; the mean over the replicas is kept%s",
            context.replicas,
            listed(list(averages)),
            "" if context.mask is None else ", of values that the slices' padding is in",
        )


def _examples(context: StepContext) -> tf.Tensor:
    """How many examples this replica has, an int64 scalar."""
    if context.mask is None:
        return tf.constant(context.positions.shape[0], tf.int64)
    return tf.math.count_nonzero(context.mask)


def weighted(averages: Sequence[MovingAverage]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Each value times its weight, and the weights: two lists whose sums over slices are a mean."""
    return (
        [average.value * tf.cast(average.weight, average.value.dtype) for average in averages],
        [tf.cast(average.weight, average.value.dtype) for average in averages],
    )


def commit(average: MovingAverage, value: tf.Tensor, weight: tf.Tensor, finite: tf.Tensor) -> None:
    """Moves a moving average by the mean of all slices, where the step is finite.

    Args:
      average: whose.
      value: the sum of all slices' values, each times its weight.
      weight: the sum of their weights, a scalar.
      finite: whether the step is, a bool scalar.
    """
    old = handles.read(average.variable)
    mean = value / tf.maximum(weight, tf.ones([], weight.dtype))
    share = tf.where(finite & (weight > 0), tf.constant(1 - average.momentum, old.dtype), 0)
    change = tf.math.multiply_no_nan(tf.cast(mean, old.dtype) - old, share)
    handles.write(average.variable, old + change)
