"""Boundaries of the outer loop."""

import pytest

import loop


@pytest.mark.parametrize(
    ("steps", "step", "boundary"), [(1, 0, 1), (1, 5, 6), (7, 0, 7), (7, 6, 7), (7, 7, 14)]
)
def test_next_boundary_is_the_first_multiple_after_the_step(steps, step, boundary):
    """A call that starts on a boundary runs to the next one, never zero steps."""
    assert loop.Every(steps, print).next_boundary(step) == boundary


def test_is_due_at_multiples_alone():
    """Fifty steps of an interval of 7 hold exactly its multiples."""
    every = loop.Every(7, print)
    assert [step for step in range(1, 51) if every.is_due(step)] == [7, 14, 21, 28, 35, 42, 49]


@pytest.mark.parametrize("steps", [0, -3])
def test_refuses_an_interval_below_one(steps):
    """Nothing can be done every zero steps."""
    with pytest.raises(ValueError, match=f"steps must be at least 1, got {steps}"):
        loop.Every(steps, print)
