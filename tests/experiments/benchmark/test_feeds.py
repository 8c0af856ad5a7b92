"""The race of streamed records against resident arrays."""

from __future__ import annotations

import pytest

from experiments.benchmark import tables
from experiments.benchmark.measurement import Options, whole
from experiments.benchmark.measurements import feeds


def test_a_ratio_is_of_steps_a_second_round_by_round() -> None:
    """Resident over streamed milliseconds of the same round: median and quartiles."""
    times = {"resident": [10.0, 20.0, 10.0, 40.0, 10.0], "records": [20.0, 25.0, 10.0, 80.0, 12.5]}
    # Of 10 steps in each round, so many milliseconds of waiting; 7 ms of CPU a step.
    waits = [0.0, 100.0, 25.0, 20.0, 0.0, 37.5]
    spent = [{"input": sum(waits[: i + 1]) / 1e3, "cpu": 0.07 * i, "train": 9.0} for i in range(6)]
    row = feeds.row("cnn", "records", times, spent, 10)
    # Ratios 0.5, 0.8, 1, 0.5, 0.8.
    assert row["ratio"] == pytest.approx(0.8)
    assert (row["ratio_q1"], row["ratio_q3"]) == pytest.approx((0.5, 0.9))
    assert (row["ms"], row["steps_per_s"]) == pytest.approx((20.0, 50.0))
    # Shares 0.5, 0.1, 0.2, 0, 0.3.
    assert (row["waiting"], row["cpu_ms"]) == pytest.approx((0.2, 7.0))


def test_both_feeds_train_the_same_steps() -> None:
    """A real race of two processes: equal first losses, the shares of time, a table of both."""
    result = whole(feeds.run(Options(workloads=["cnn"], seconds=0.05)))
    assert result["checks"][0]["equal"], result["checks"]
    assert [row["feed"] for row in result["rows"]] == ["resident", "records"]
    for row in result["rows"]:
        assert 0 < row["ms_min"] <= row["ms"] <= row["ms_max"]
        assert 0 < row["ratio_q1"] <= row["ratio"] <= row["ratio_q3"]
        assert 0 <= row["waiting"] < 1
        assert row["cpu_ms"] > 0
        assert row["peak_rss_bytes"] > 50e6
    assert result["rows"][0]["ratio"] == 1.0
    assert tables.render("feeds", result["rows"]).count("| cnn |") == 2


def test_a_feed_that_is_too_slow_is_a_row_that_says_so() -> None:
    """Neither is ready within a moment: no times, and the reason in each row."""
    result = whole(feeds.run(Options(workloads=["cnn"], seconds=0.05, limit=0.1)))
    reason = "not ready within 0 s"
    assert [(row["feed"], row["skipped"]) for row in result["rows"]] == [
        ("resident", reason),
        ("records", reason),
    ]
    assert "| cnn | resident | not ready within 0 s |" in tables.render("feeds", result["rows"])
