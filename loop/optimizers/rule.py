"""What an optimizer tells the updater: a frozen description of the rule of a variable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import tensorflow as tf

Keep = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""(new, old) -> what the slot becomes. A loop that skips a step that is not finite chooses the old
value here, before the parameter's step is formed from it: chosen after the rule, XLA would compute
the slots a second time for the parameter, from copies of the old ones."""


def always(new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
    """The `Keep` of an update that is never skipped: the new value."""
    del old
    return new


def learning_rate_only(
    learning_rate: tf.Tensor, count: tf.Tensor, dtype: tf.DType
) -> dict[str, tf.Tensor]:
    """`Rule.derived` of most rules: the learning rate as it is."""
    del count, dtype
    return {"learning_rate": learning_rate}


@dataclasses.dataclass(frozen=True)
class Rule:
    """The rule of a variable and all that the updater must know of it.

    Attributes:
      function: `(parameter, gradient, *slots, keep=keep, **scalars) -> (parameter, *slots)`. A pure
        function of tensors of one shape (or the same rows of it) and of one float dtype, which the
        scalars have too. `gradient` is the direction of increase: it subtracts. Every new slot goes
        through `keep(new, old)` before anything is formed from it.
      slots: the slots' names, in the order of `function`, and the initial value of all elements.
      constants: scalars by name that never change.
      derived: `(learning_rate, count, dtype)` -> the other scalars by name, float64, computed once
        an update and then rounded to `dtype`. The learning rate is a float64 scalar and has the
        variable's multiplier; the count, a float64 scalar from 1, is this update's number.
      fused: the same as a fused operation of TensorFlow in place, where there is one: called as
        `fused(handle, gradient, *slot_handles, **scalars)` for dense gradients outside XLA, where
        each plain operation is a pass over memory.
      idle: values of scalars at which `function`, given a gradient of zeros and a learning rate of
        0, changes neither the parameter nor a slot (but for the sign of a zero), whatever the other
        scalars; None if there are none.
      decoupled_decay: whether the updater takes weight decay off the parameter; else `function`
        has it.
      no_rows: why a sparse gradient has no meaning and what to do instead; None if it has one.
    """

    function: Callable[..., tuple[tf.Tensor, ...]]
    slots: Mapping[str, float] = dataclasses.field(default_factory=dict)
    constants: Mapping[str, float] = dataclasses.field(default_factory=dict)
    derived: Callable[[tf.Tensor, tf.Tensor, tf.DType], dict[str, tf.Tensor]] = learning_rate_only
    fused: Callable[..., None] | None = None
    idle: Mapping[str, float] | None = None
    decoupled_decay: bool = True
    no_rows: str | None = None
