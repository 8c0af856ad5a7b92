"""Numbers as text."""

import math

import numpy as np
import pytest

from experiments.entry.significant import significant


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.4e-5, "2.4e-05"),
        (0.98051, "0.9805"),
        (20.5, "20.5"),
        (123456.7, "123457"),
        (9999.7, "10000"),
        (-9999.5, "-10000"),
        (0.0, "0"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_numbers_for_a_person(value, text):
    """Small ones do not vanish, large ones have no exponent, what is no number says so."""
    assert significant(value) == text


def test_four_digits_are_right_to_half_a_unit_of_the_last():
    """Over sixteen decades, and with other numbers of digits."""
    rng = np.random.default_rng(3)
    for value in (10.0 ** rng.uniform(-8, 8, 500)).tolist():
        for digits in (2, 3, 5):
            shown = float(significant(value, digits))
            assert abs(shown - value) <= 0.5001 * 10.0 ** (
                math.floor(math.log10(value)) + 1 - digits
            )
