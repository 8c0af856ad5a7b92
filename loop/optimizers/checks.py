"""Checks of the optimizers' arguments, where they are made."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any


def number(
    owner: str, name: str, value: Any, *, low: float = 0.0, below: float = math.inf
) -> float:
    """The argument as a float in [low, below).

    Raises:
      ValueError: if it is no finite number in that range.
    """
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not low <= value < below:
        end = "a finite number" if below == math.inf else f"below {below:g}"
        raise ValueError(f"{owner}: {name} must be at least {low:g} and {end}, got {value!r}")
    return float(value)


def pattern(owner: str, option: str, text: Any) -> re.Pattern[str]:
    """The compiled regular expression.

    Raises:
      ValueError: if it is none.
    """
    try:
        return re.compile(text)
    except (re.error, TypeError) as error:
        raise ValueError(
            f"{owner}: {option} must hold regular expressions, got {text!r} ({error})"
        ) from None


def predicate(
    owner: str, option: str, mask: Callable[[str], bool] | str | None
) -> Callable[[str], bool]:
    """The mask as a function of a variable's name; None takes all.

    Raises:
      ValueError: if it is neither a function nor a regular expression.
    """
    if mask is None:
        return lambda _: True
    if callable(mask):
        return mask
    compiled = pattern(owner, option, mask)
    return lambda name: compiled.search(name) is not None
