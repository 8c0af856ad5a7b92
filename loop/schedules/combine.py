"""Schedules made of values and of other schedules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from loop.schedules import arguments
from loop.schedules.schedule import Schedule, as_schedule

ScheduleLike = Schedule | Callable[[tf.Tensor], tf.Tensor] | float


@dataclasses.dataclass(frozen=True)
class PiecewiseConstant(Schedule):
    """`values[i]` where i boundaries lie below the step."""

    boundaries: tuple[int, ...]
    values: tuple[float, ...]

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """The piece's value, float64."""
        passed = tf.reduce_sum(tf.cast(step > tf.constant(self.boundaries, tf.int64), tf.int32))
        return tf.gather(tf.constant(self.values, tf.float64), passed)


@dataclasses.dataclass(frozen=True)
class LinearWarmup(Schedule):
    """A line from `initial` up to `schedule`."""

    schedule: Schedule
    warmup_steps: int
    initial: float
    shift: bool

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """The warmed-up rate, float64."""
        if self.warmup_steps == 0:
            return self.schedule.rate(step)
        inner = tf.maximum(step - self.warmup_steps, 0) if self.shift else step
        target = self.schedule.rate(inner)
        done = tf.cast(tf.minimum(step, self.warmup_steps), tf.float64) / self.warmup_steps
        return self.initial * (1.0 - done) + target * done


@dataclasses.dataclass(frozen=True)
class Joined(Schedule):
    """One schedule after another."""

    schedules: tuple[Schedule, ...]
    boundaries: tuple[int, ...]

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """The current schedule's rate, float64."""
        rate = self.schedules[0].rate(step)
        for boundary, schedule in zip(self.boundaries, self.schedules[1:], strict=True):
            # Before its time a schedule is computed all the same: at 0, where it is defined.
            later = schedule.rate(tf.maximum(step - boundary, 0))
            rate = tf.where(step < boundary, rate, later)
        return rate


# Compared by identity: variables compare element by element.
@dataclasses.dataclass(frozen=True, eq=False)
class Scaled(Schedule):
    """A schedule times a variable that the outer loop may change between calls."""

    schedule: Schedule
    scale: tf.Variable

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """The scaled rate, float64."""
        return self.schedule.rate(step) * tf.cast(self.scale, tf.float64)


def piecewise_constant(boundaries: Sequence[int], values: Sequence[float]) -> Schedule:
    """`values[0]` up to and with step `boundaries[0]`, `values[1]` up to `boundaries[1]`, ...

    As `tf.compat.v1.train.piecewise_constant`: a boundary is the last step of its piece.

    Args:
      boundaries: rising whole steps, one or more.
      values: one more than boundaries; finite, not negative.

    Raises:
      ValueError: on a bad argument.
    """
    name = "piecewise_constant"
    checked = arguments.boundaries(name, boundaries)
    if not isinstance(values, Sequence) or len(values) != len(checked) + 1:
        raise ValueError(
            f"schedules.{name}: values must be a list of {len(checked) + 1}, one more than the "
            f"boundaries, got {values!r}"
        )
    return PiecewiseConstant(
        checked, tuple(arguments.number(name, "each value", value) for value in values)
    )


def linear_warmup(
    schedule: ScheduleLike, warmup_steps: int, *, initial: float = 0.0, shift: bool = True
) -> Schedule:
    """A line from `initial` at step 0 to `schedule` at `warmup_steps`, then `schedule`.

    Args:
      schedule: a schedule, or a number for a constant one.
      warmup_steps: steps of the line; whole; 0 for no warm-up.
      initial: the value at step 0; not negative. At 0 the first step changes no weight.
      shift: whether `schedule` starts after the warm-up, and so sees `step - warmup_steps` (as
        optax's `join_schedules` and Keras's `CosineDecay(warmup_target=)`); if not, it sees the
        step itself from the start (as Goyal et al., 2017, arXiv:1706.02677), scaled by the line.

    Raises:
      ValueError: on a bad argument.
    """
    return LinearWarmup(
        as_schedule(schedule),
        arguments.steps("linear_warmup", "warmup_steps", warmup_steps, least=0),
        arguments.number("linear_warmup", "initial", initial),
        bool(shift),
    )


def join(schedules: Sequence[ScheduleLike], boundaries: Sequence[int]) -> Schedule:
    """One schedule after another: `schedules[i]` from step `boundaries[i - 1]` on.

    Each but the first sees `step - boundary`, and so starts at its own step 0 (as optax's
    `join_schedules`). A boundary is the first step of the later schedule.

    Args:
      schedules: two or more schedules, or numbers for constant ones.
      boundaries: rising whole steps, one fewer than schedules.

    Raises:
      ValueError: on a bad argument.
    """
    checked = arguments.boundaries("join", boundaries)
    if not isinstance(schedules, Sequence) or len(schedules) != len(checked) + 1:
        raise ValueError(
            f"schedules.join: schedules must be a list of {len(checked) + 1}, one more than the "
            f"boundaries, got {schedules!r}"
        )
    return Joined(tuple(as_schedule(schedule) for schedule in schedules), checked)


def with_scale(schedule: ScheduleLike, scale: tf.Variable) -> Schedule:
    """`schedule(step) * scale`, for a multiplier that the outer loop lowers (reduce on plateau).

    The variable is the caller's and part of the run's state: put it in the Trainer's `state` map,
    so that it is checkpointed. It is read in the compiled call; a change needs no new trace.

    Args:
      schedule: a schedule, or a number for a constant one.
      scale: a floating scalar variable.

    Raises:
      ValueError: if `scale` is not one, or `schedule` is bad.
    """
    if not isinstance(scale, tf.Variable) or scale.shape.rank != 0 or not scale.dtype.is_floating:
        raise ValueError(
            f"schedules.with_scale: scale must be a floating scalar tf.Variable, got {scale!r}"
        )
    return Scaled(as_schedule(schedule), scale)
