"""What a schedule is: a function of only the global step."""

from __future__ import annotations

import abc
import dataclasses
import numbers
from collections.abc import Callable

import tensorflow as tf

from loop.schedules import arguments
from loop.user_code import called, found, place_of


class Schedule(abc.ABC):
    """A value, such as a learning rate, for each global step.

    A schedule holds no counter: `schedule(step)` depends on `step` and its parameters only, so a
    resumed run goes on where it was. Steps stay int64 and fractions are formed in float64, because
    float32 cannot tell step 2**24 from 2**24 + 1 (`tf.compat.v1.train` and Keras compute in it).
    It works in eager, graph and XLA, and makes no state.
    """

    @abc.abstractmethod
    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """The value in full precision, for schedules built on this one.

        Args:
          step: int64 scalar, 0 for the first step of a run.

        Returns:
          float64 scalar.
        """

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        """The schedule's value at `step`.

        Args:
          step: an integer scalar tensor or variable, or a Python int; 0 for the first step.

        Returns:
          float32 scalar.

        Raises:
          TypeError: if `step` is not an integer.
        """
        return tf.cast(self.rate(_as_int64(step)), tf.float32)


def _as_int64(step: tf.Tensor | int) -> tf.Tensor:
    # Without the dtype a Python int of 2**31 or more would not fit TF's default, int32.
    is_python_int = isinstance(step, numbers.Integral) and not isinstance(step, bool)
    tensor = tf.convert_to_tensor(step, tf.int64 if is_python_int else None)
    if not tensor.dtype.is_integer:
        raise TypeError(f"schedule: step must be an integer, got {tensor.dtype.name}")
    return tf.cast(tensor, tf.int64)


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """The same value at every step."""

    value: float

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """`value`, whatever the step."""
        del step
        return tf.constant(self.value, tf.float64)


@dataclasses.dataclass(frozen=True)
class Custom(Schedule):
    """A user's own function `step -> scalar`, a Keras schedule for one."""

    function: Callable[[tf.Tensor], tf.Tensor]

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """`function(step)`, widened."""
        what = f"schedule: the function{place_of(self.function)}"
        value = called(what, self.function, step, takes="the step")
        try:
            rate = tf.cast(value, tf.float64)
        except (TypeError, ValueError, tf.errors.OpError):
            raise TypeError(f"{what} expected to return a number, found {found(value)}") from None
        if rate.shape.rank not in (0, None):
            raise ValueError(f"{what} expected to return a scalar, found one of {rate.shape}")
        return rate


def constant(value: float) -> Schedule:
    """The same `value` at every step.

    Args:
      value: finite, not negative.

    Raises:
      ValueError: on any other value.
    """
    return Constant(arguments.number("constant", "value", value))


def as_schedule(value: Schedule | Callable[[tf.Tensor], tf.Tensor] | float) -> Schedule:
    """The schedule that `value` means.

    Args:
      value: a schedule; a number, for a constant one; or a function from an int64 scalar step to a
        scalar, such as a Keras `LearningRateSchedule` (which computes in float32).

    Raises:
      ValueError: on anything else, and on a number that is negative or not finite. When the
        schedule is called, TypeError or ValueError if the function is no TensorFlow function of the
        step or returns no scalar.
    """
    if isinstance(value, Schedule):
        return value
    if callable(value):
        return Custom(value)
    return constant(value)
