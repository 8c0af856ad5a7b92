"""Checks of a schedule's arguments: what passes is a plain `float` or `int`."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Sequence


def number(
    schedule: str, name: str, value: object, *, least: float = 0.0, most: float = math.inf
) -> float:
    """`value` as a float.

    Args:
      schedule: the schedule's name, for the error message.
      name: the argument's name, for the error message.
      value: what the caller passed.
      least: smallest value allowed.
      most: largest value allowed; infinity itself never is.

    Raises:
      ValueError: if `value` is no finite real number in [least, most].
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    as_float = float(value) if real else math.nan  # type: ignore[arg-type]
    if not (math.isfinite(as_float) and least <= as_float <= most):
        span = f"at least {least:g}" if most == math.inf else f"in [{least:g}, {most:g}]"
        raise ValueError(
            f"schedules.{schedule}: {name} must be a finite number {span}, got {value!r}"
        )
    return as_float


def positive(schedule: str, name: str, value: object) -> float:
    """`value` as a float above zero.

    Raises:
      ValueError: if `value` is no finite real number above zero.
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    as_float = float(value) if real else math.nan  # type: ignore[arg-type]
    if not (math.isfinite(as_float) and as_float > 0.0):
        raise ValueError(
            f"schedules.{schedule}: {name} must be a finite number above 0, got {value!r}"
        )
    return as_float


def steps(schedule: str, name: str, value: object, *, least: int = 1) -> int:
    """`value`, a number of steps, as an int; a float without a fraction (1e4) is one too.

    Raises:
      ValueError: if `value` is not a whole number of at least `least`.
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    whole = real and math.isfinite(value) and value == int(value)  # type: ignore[arg-type, call-overload]
    if not whole or value < least:  # type: ignore[operator]
        raise ValueError(
            f"schedules.{schedule}: {name} must be a whole number of steps, {least} or more, "
            f"got {value!r}"
        )
    return int(value)  # type: ignore[call-overload, no-any-return]


def boundaries(schedule: str, values: object) -> tuple[int, ...]:
    """`values`, steps in rising order, as ints.

    Raises:
      ValueError: if there are none, one is not a whole number, or they do not rise.
    """
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise ValueError(
            f"schedules.{schedule}: boundaries must be a list of one or more steps, got {values!r}"
        )
    checked = tuple(steps(schedule, "each boundary", value, least=0) for value in values)
    if any(low >= high for low, high in itertools.pairwise(checked)):
        raise ValueError(
            f"schedules.{schedule}: boundaries must rise from one to the next, got {list(values)}"
        )
    return checked
