"""Numbers as text for a person: significant digits, however small or large the number is."""

from __future__ import annotations


def significant(value: float, digits: int = 4) -> str:
    """`digits` significant digits; a number with more before the point keeps all of these.

    A fixed number of decimals shows a loss of 2.4e-5 as 0.0000.

        >>> [significant(value) for value in (2.4e-5, 0.98051, 20.5, 123456.7)]
        ['2.4e-05', '0.9805', '20.5', '123457']

    Args:
      value: the number; NaN and infinity too.
      digits: at least 1.
    """
    # From here on the other form rounds up to an exponent.
    if abs(value) >= 10.0**digits - 0.5:
        return f"{value:.0f}"
    return f"{value:.{digits}g}"
