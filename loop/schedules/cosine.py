"""Decays along a cosine: one half-wave, with warm restarts, on a falling line, one cycle."""

from __future__ import annotations

import dataclasses
import fractions
import functools
import math
from typing import Literal

import tensorflow as tf

from loop.schedules import arguments
from loop.schedules.schedule import Schedule

# Beyond it a step counter has no meaning; the restarts of a run are listed up to here.
_LAST_STEP = 2**62
_MOST_RESTARTS = 10_000


def _half_wave(share_left: tf.Tensor) -> tf.Tensor:
    """`(1 + cos(pi * (1 - share_left))) / 2`: 1 at the start, 0 at the end.

    Written as a squared sine, which keeps all digits near the end where `1 + cos` cancels.
    """
    return tf.square(tf.sin((math.pi / 2) * share_left))


def _share(part: tf.Tensor, whole: int) -> tf.Tensor:
    return tf.cast(part, tf.float64) / float(whole)


@dataclasses.dataclass(frozen=True)
class CosineDecay(Schedule):
    """A half-wave from `initial_learning_rate` to `alpha * initial_learning_rate`."""

    initial_learning_rate: float
    decay_steps: int
    alpha: float

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """The decayed rate, float64."""
        left = self.decay_steps - tf.minimum(step, self.decay_steps)
        wave = _half_wave(_share(left, self.decay_steps))
        return self.initial_learning_rate * ((1.0 - self.alpha) * wave + self.alpha)


@dataclasses.dataclass(frozen=True)
class CosineDecayRestarts(Schedule):
    """Half-waves one after another, each `t_mul` times as long and `m_mul` times as high."""

    initial_learning_rate: float
    first_decay_steps: int
    t_mul: float
    m_mul: float
    alpha: float

    @functools.cached_property
    def _starts(self) -> tuple[list[int], list[float], list[float]]:
        """First whole step, exact start and length of each half-wave; exact in whole numbers."""
        ratio = fractions.Fraction(str(self.t_mul))
        begin, length, unit = 0, self.first_decay_steps, 1
        steps: list[int] = []
        begins: list[float] = []
        lengths: list[float] = []
        while begin < _LAST_STEP * unit:
            if len(steps) == _MOST_RESTARTS:
                raise ValueError(
                    "schedules.cosine_decay_restarts: t_mul must be 1 or well above it (1.01 or "
                    f"more), got {self.t_mul!r}, which restarts more than {_MOST_RESTARTS} times"
                )
            steps.append(-(-begin // unit))
            begins.append(begin / unit)
            lengths.append(length / unit)
            begin = (begin + length) * ratio.denominator
            length *= ratio.numerator
            unit *= ratio.denominator
        return steps, begins, lengths

    def _place(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Which half-wave `step` is in, and the share of it that is left: float64 scalars."""
        if self.t_mul == 1.0:
            index = step // self.first_decay_steps
            left = self.first_decay_steps - step % self.first_decay_steps
            return tf.cast(index, tf.float64), _share(left, self.first_decay_steps)
        steps, begins, lengths = self._starts
        index = tf.reduce_sum(tf.cast(step >= tf.constant(steps, tf.int64), tf.int32)) - 1
        index = tf.maximum(index, 0)
        begin = tf.gather(tf.constant(begins, tf.float64), index)
        length = tf.gather(tf.constant(lengths, tf.float64), index)
        done = (tf.cast(step, tf.float64) - begin) / length
        return tf.cast(index, tf.float64), 1.0 - done

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """The decayed rate, float64."""
        index, share_left = self._place(step)
        height = tf.pow(tf.constant(self.m_mul, tf.float64), index)
        wave = height * _half_wave(share_left)
        return self.initial_learning_rate * ((1.0 - self.alpha) * wave + self.alpha)


@dataclasses.dataclass(frozen=True)
class LinearCosineDecay(Schedule):
    """A cosine on a falling line: `(alpha + line) * cosine + beta`."""

    initial_learning_rate: float
    decay_steps: int
    num_periods: float
    alpha: float
    beta: float

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """The decayed rate, float64."""
        done = tf.minimum(step, self.decay_steps)
        line = _share(self.decay_steps - done, self.decay_steps)
        # (1 + cos 2x) / 2 = cos(x) ** 2, without the cancellation.
        wave = tf.square(tf.cos(math.pi * self.num_periods * _share(done, self.decay_steps)))
        return self.initial_learning_rate * ((self.alpha + line) * wave + self.beta)


@dataclasses.dataclass(frozen=True)
class OneCycle(Schedule):
    """Up from `initial` to `peak` in `warmup_steps`, down to `final` at `total_steps`."""

    peak: float
    total_steps: int
    warmup_steps: int
    initial: float
    final: float
    anneal: Literal["cosine", "linear"]

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """The rate, float64."""
        up = tf.minimum(step, self.warmup_steps)
        rising = _share(up, self.warmup_steps)
        fall_steps = self.total_steps - self.warmup_steps
        falling = _share(
            self.total_steps - tf.clip_by_value(step, self.warmup_steps, self.total_steps),
            fall_steps,
        )
        if self.anneal == "cosine":
            rising, falling = _half_wave(rising), _half_wave(falling)
        return tf.where(
            step < self.warmup_steps,
            self.initial + (self.peak - self.initial) * rising,
            self.final + (self.peak - self.final) * falling,
        )


def cosine_decay(initial_learning_rate: float, decay_steps: int, alpha: float = 0.0) -> Schedule:
    """`initial * ((1 - alpha) * (1 + cos(pi * step / decay_steps)) / 2 + alpha)`, then flat.

    As `tf.compat.v1.train.cosine_decay` (Loshchilov and Hutter, 2017, arXiv:1608.03983). In its
    float32 a counter loses steps from 2**24 on, and near the end `1 + cos` loses its digits.

    Args:
      initial_learning_rate: the value at step 0; not negative.
      decay_steps: steps to the end; whole, positive.
      alpha: the final value as a share of the initial one, in [0, 1].

    Raises:
      ValueError: on a bad argument.
    """
    name = "cosine_decay"
    return CosineDecay(
        arguments.number(name, "initial_learning_rate", initial_learning_rate),
        arguments.steps(name, "decay_steps", decay_steps),
        arguments.number(name, "alpha", alpha, most=1.0),
    )


def cosine_decay_restarts(
    initial_learning_rate: float,
    first_decay_steps: int,
    t_mul: float = 2.0,
    m_mul: float = 1.0,
    alpha: float = 0.0,
) -> Schedule:
    """Cosine decay with warm restarts (SGDR: Loshchilov and Hutter, 2017, arXiv:1608.03983).

    As `tf.compat.v1.train.cosine_decay_restarts`. That finds the restart by a logarithm in float32,
    so that at a restart it may still be at the end of the wave before; here restarts are exact:
    the first step at or after `first_decay_steps * (1 + t_mul + t_mul**2 + ...)`.

    Args:
      initial_learning_rate: the value at step 0; not negative.
      first_decay_steps: length of the first half-wave; whole, positive.
      t_mul: how many times longer each half-wave is than the one before; 1, or about 1.01 or more.
      m_mul: how many times higher each half-wave is than the one before; positive.
      alpha: the lowest value as a share of the initial one, in [0, 1].

    Raises:
      ValueError: on a bad argument.
    """
    name = "cosine_decay_restarts"
    schedule = CosineDecayRestarts(
        arguments.number(name, "initial_learning_rate", initial_learning_rate),
        arguments.steps(name, "first_decay_steps", first_decay_steps),
        arguments.number(name, "t_mul", t_mul, least=1.0),
        arguments.positive(name, "m_mul", m_mul),
        arguments.number(name, "alpha", alpha, most=1.0),
    )
    if schedule.t_mul != 1.0:
        _ = schedule._starts  # a t_mul too near 1 raises here, not at the first step
    return schedule


def linear_cosine_decay(
    initial_learning_rate: float,
    decay_steps: int,
    num_periods: float = 0.5,
    alpha: float = 0.0,
    beta: float = 0.001,
) -> Schedule:
    """`initial * ((alpha + 1 - f) * (1 + cos(2 pi * num_periods * f)) / 2 + beta)`.

    Here `f` is `min(step, decay_steps) / decay_steps`. As `tf.compat.v1.train.linear_cosine_decay`
    (Bello et al., 2017, arXiv:1709.07417); there a float32 counter loses steps from 2**24 on.

    Args:
      initial_learning_rate: not negative.
      decay_steps: steps to the end; whole, positive.
      num_periods: periods of the cosine until the end; not negative.
      alpha: added to the line; not negative.
      beta: added at the end; not negative.

    Raises:
      ValueError: on a bad argument.
    """
    name = "linear_cosine_decay"
    return LinearCosineDecay(
        arguments.number(name, "initial_learning_rate", initial_learning_rate),
        arguments.steps(name, "decay_steps", decay_steps),
        arguments.number(name, "num_periods", num_periods),
        arguments.number(name, "alpha", alpha),
        arguments.number(name, "beta", beta),
    )


def one_cycle(
    peak: float,
    total_steps: int,
    *,
    warmup_fraction: float = 0.3,
    initial_divisor: float = 25.0,
    final_divisor: float = 1e4,
    anneal: Literal["cosine", "linear"] = "cosine",
) -> Schedule:
    """One rise and one fall (Smith and Topin, 2018, arXiv:1708.07120).

    From `peak / initial_divisor` at step 0 to `peak` at `round(warmup_fraction * total_steps)`,
    down to `peak / (initial_divisor * final_divisor)` at `total_steps`, and flat from there.

    Args:
      peak: the highest value; not negative.
      total_steps: steps of the cycle; whole, positive.
      warmup_fraction: the share of the steps that rise, in (0, 1); at least one must rise and fall.
      initial_divisor: positive.
      final_divisor: positive; divides the initial value.
      anneal: "cosine" for half-waves, "linear" for straight lines.

    Raises:
      ValueError: on a bad argument.
    """
    name = "one_cycle"
    peak = arguments.number(name, "peak", peak)
    total_steps = arguments.steps(name, "total_steps", total_steps)
    fraction = arguments.number(name, "warmup_fraction", warmup_fraction, most=1.0)
    warmup_steps = round(fraction * total_steps)
    if not 0 < warmup_steps < total_steps:
        raise ValueError(
            f"schedules.one_cycle: warmup_fraction must leave a step to rise and one to fall, got "
            f"{warmup_fraction!r} of {total_steps} steps"
        )
    if anneal not in ("cosine", "linear"):
        raise ValueError(
            f"schedules.one_cycle: anneal must be 'cosine' or 'linear', got {anneal!r}"
        )
    initial = peak / arguments.positive(name, "initial_divisor", initial_divisor)
    final = initial / arguments.positive(name, "final_divisor", final_divisor)
    return OneCycle(peak, total_steps, warmup_steps, initial, final, anneal)
