"""Decays in closed form: exponential, inverse-time, polynomial, stepwise."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from loop.schedules import arguments
from loop.schedules.schedule import Schedule


def _periods(step: tf.Tensor, decay_steps: int, staircase: bool) -> tf.Tensor:
    """How many times `decay_steps` fits into `step`: float64; with `staircase`, whole times."""
    # The whole number comes from integers: a rounded quotient may reach the next one too early.
    if staircase:
        return tf.cast(step // decay_steps, tf.float64)
    return tf.cast(step, tf.float64) / decay_steps


@dataclasses.dataclass(frozen=True)
class ExponentialDecay(Schedule):
    """`initial_learning_rate * decay_rate ** (step / decay_steps)`."""

    initial_learning_rate: float
    decay_steps: int
    decay_rate: float
    staircase: bool

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """The decayed rate, float64."""
        periods = _periods(step, self.decay_steps, self.staircase)
        return self.initial_learning_rate * tf.pow(
            tf.constant(self.decay_rate, tf.float64), periods
        )


@dataclasses.dataclass(frozen=True)
class NaturalExpDecay(Schedule):
    """`initial_learning_rate * exp(-decay_rate * step / decay_steps)`."""

    initial_learning_rate: float
    decay_steps: int
    decay_rate: float
    staircase: bool

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """The decayed rate, float64."""
        periods = _periods(step, self.decay_steps, self.staircase)
        return self.initial_learning_rate * tf.exp(-self.decay_rate * periods)


@dataclasses.dataclass(frozen=True)
class InverseTimeDecay(Schedule):
    """`initial_learning_rate / (1 + decay_rate * step / decay_steps)`."""

    initial_learning_rate: float
    decay_steps: int
    decay_rate: float
    staircase: bool

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """The decayed rate, float64."""
        periods = _periods(step, self.decay_steps, self.staircase)
        return self.initial_learning_rate / (1.0 + self.decay_rate * periods)


@dataclasses.dataclass(frozen=True)
class PolynomialDecay(Schedule):
    """From the initial to the end value along `(1 - step / decay_steps) ** power`."""

    initial_learning_rate: float
    decay_steps: int
    end_learning_rate: float
    power: float
    cycle: bool

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """The decayed rate, float64."""
        total = tf.constant(self.decay_steps, tf.int64)
        if self.cycle:
            # The first multiple of decay_steps that is not below step, and not zero.
            total *= tf.maximum((step + self.decay_steps - 1) // self.decay_steps, 1)
        left = total - tf.minimum(step, total)
        # Formed from integers, the share that is left keeps all its digits near the end.
        share = tf.cast(left, tf.float64) / tf.cast(total, tf.float64)
        span = self.initial_learning_rate - self.end_learning_rate
        return span * tf.pow(share, self.power) + self.end_learning_rate


def exponential_decay(
    initial_learning_rate: float, decay_steps: int, decay_rate: float, staircase: bool = False
) -> Schedule:
    """`initial_learning_rate * decay_rate ** (step / decay_steps)`.

    As `tf.compat.v1.train.exponential_decay`, which counts in float32: from step 2**24 on it takes
    neighbouring steps for one and may take a stair late or early, and it rounds `decay_rate` to
    float32, which a large power magnifies. This one does neither.

    Args:
      initial_learning_rate: the value at step 0; not negative.
      decay_steps: steps in which the value shrinks by `decay_rate`; whole, positive.
      decay_rate: the factor; positive (above 1 it grows).
      staircase: whether the exponent is cut to a whole number, so that the value falls in stairs.

    Raises:
      ValueError: on a bad argument.
    """
    name = "exponential_decay"
    return ExponentialDecay(
        arguments.number(name, "initial_learning_rate", initial_learning_rate),
        arguments.steps(name, "decay_steps", decay_steps),
        arguments.positive(name, "decay_rate", decay_rate),
        bool(staircase),
    )


def step_decay(initial_learning_rate: float, drop: float, every: int) -> Schedule:
    """`initial_learning_rate * drop ** floor(step / every)`: a factor `drop` every `every` steps.

    Args:
      initial_learning_rate: the value at step 0; not negative.
      drop: the factor; positive.
      every: steps between drops; whole, positive.

    Raises:
      ValueError: on a bad argument.
    """
    return ExponentialDecay(
        arguments.number("step_decay", "initial_learning_rate", initial_learning_rate),
        arguments.steps("step_decay", "every", every),
        arguments.positive("step_decay", "drop", drop),
        staircase=True,
    )


def natural_exp_decay(
    initial_learning_rate: float, decay_steps: int, decay_rate: float, staircase: bool = False
) -> Schedule:
    """`initial_learning_rate * exp(-decay_rate * step / decay_steps)`.

    As `tf.compat.v1.train.natural_exp_decay`; there a float32 counter loses steps from 2**24 on.

    Args:
      initial_learning_rate: the value at step 0; not negative.
      decay_steps: steps in which the exponent falls by `decay_rate`; whole, positive.
      decay_rate: not negative.
      staircase: whether `step / decay_steps` is cut to a whole number.

    Raises:
      ValueError: on a bad argument.
    """
    name = "natural_exp_decay"
    return NaturalExpDecay(
        arguments.number(name, "initial_learning_rate", initial_learning_rate),
        arguments.steps(name, "decay_steps", decay_steps),
        arguments.number(name, "decay_rate", decay_rate),
        bool(staircase),
    )


def inverse_time_decay(
    initial_learning_rate: float, decay_steps: int, decay_rate: float, staircase: bool = False
) -> Schedule:
    """`initial_learning_rate / (1 + decay_rate * step / decay_steps)`.

    As `tf.compat.v1.train.inverse_time_decay`; there a float32 counter loses steps from 2**24 on.

    Args:
      initial_learning_rate: the value at step 0; not negative.
      decay_steps: steps in which the divisor grows by `decay_rate`; whole, positive.
      decay_rate: not negative.
      staircase: whether `step / decay_steps` is cut to a whole number.

    Raises:
      ValueError: on a bad argument.
    """
    name = "inverse_time_decay"
    return InverseTimeDecay(
        arguments.number(name, "initial_learning_rate", initial_learning_rate),
        arguments.steps(name, "decay_steps", decay_steps),
        arguments.number(name, "decay_rate", decay_rate),
        bool(staircase),
    )


def polynomial_decay(
    initial_learning_rate: float,
    decay_steps: int,
    end_learning_rate: float = 0.0001,
    power: float = 1.0,
    cycle: bool = False,
) -> Schedule:
    """`(initial - end) * (1 - step / decay_steps) ** power + end`, and `end` from there on.

    As `tf.compat.v1.train.polynomial_decay`. Its float32 counter loses steps from 2**24 on and,
    with `cycle`, may find the wrong cycle there.

    Args:
      initial_learning_rate: the value at step 0; not negative.
      decay_steps: steps to the end; whole, positive.
      end_learning_rate: the value at the end; not negative.
      power: positive; 1 is a straight line.
      cycle: whether, past the end, `decay_steps` is stretched to its next multiple, so that the
        value rises again and falls ever slower.

    Raises:
      ValueError: on a bad argument.
    """
    name = "polynomial_decay"
    return PolynomialDecay(
        arguments.number(name, "initial_learning_rate", initial_learning_rate),
        arguments.steps(name, "decay_steps", decay_steps),
        arguments.number(name, "end_learning_rate", end_learning_rate),
        arguments.positive(name, "power", power),
        bool(cycle),
    )
