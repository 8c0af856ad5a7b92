"""The arithmetic of the benchmarks: rounds, medians, ratios."""

import statistics
from collections.abc import Callable

import pytest

from experiments.benchmark import timing


def test_a_spread_is_median_minimum_and_maximum() -> None:
    """An outlier moves the maximum and not the median."""
    spread = timing.spread("ms", [3.0, 1.0, 2.0, 100.0, 2.5])
    assert spread == {"ms": 2.5, "ms_min": 1.0, "ms_max": 100.0}


def test_the_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """A machine that slows down for one round changes neither side's ratio."""
    ours, theirs = [1.0, 10.0, 1.0, 1.0, 2.0], [2.0, 20.0, 2.0, 4.0, 4.0]
    assert timing.median_ratio(ours, theirs) == 0.5
    # The ratio of the medians is another number: 1 / 4.
    assert statistics.median(ours) / statistics.median(theirs) == 0.25


def test_unequal_rounds_and_no_rounds_are_refused() -> None:
    """A ratio needs both sides of the same rounds."""
    with pytest.raises(ValueError, match="found 1 and 2"):
        timing.median_ratio([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="at least one round"):
        timing.spread("ms", [])
    with pytest.raises(ValueError, match="at least 5 rounds, found 4"):
        timing.interleave({}, 4)


def test_rounds_are_interleaved() -> None:
    """Every contender runs once a round, in order: A B A B, not A A B B."""
    order: list[str] = []

    def contender(name: str, milliseconds: float) -> Callable[[], float]:
        def measure() -> float:
            order.append(name)
            return milliseconds * len(order)

        return measure

    measured = timing.interleave({"a": contender("a", 1.0), "b": contender("b", 10.0)}, 5)
    assert order == ["a", "b"] * 5
    assert measured["a"] == [1.0, 3.0, 5.0, 7.0, 9.0]
    assert measured["b"] == [20.0, 40.0, 60.0, 80.0, 100.0]


def test_a_call_is_timed_over_all_its_calls() -> None:
    """`per_call` makes as many calls as asked; `filling` times one and makes one more at least."""
    calls: list[int] = []
    milliseconds = timing.per_call(lambda: calls.append(1), 7)()
    assert len(calls) == 7
    assert milliseconds >= 0
    timing.filling(lambda: calls.append(2), 0.0)()
    assert calls == [1] * 7 + [2] * 2
