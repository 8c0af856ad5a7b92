"""The race of streamed records against resident arrays."""

from __future__ import annotations

import pytest

from experiments.benchmark import tables
from experiments.benchmark.measurement import Options, whole
from experiments.benchmark.measurements import feeds
from experiments.benchmark.process import Ready

_READY = Ready(
    compile_s=1.0,
    start_s=1.0,
    losses=[],
    ms=10.0,
    steps_per_call=64,
    compile="graph",
    note="",
    versions={},
)


def test_a_ratio_is_of_steps_a_second_round_by_round() -> None:
    """Resident over streamed milliseconds of the same round: median and quartiles."""
    times = {"resident": [10.0, 20.0, 10.0, 40.0, 10.0], "records": [20.0, 25.0, 10.0, 80.0, 12.5]}
    noted = [feeds.Noted(share, 40.0, 7) for share in (0.5, 0.1, 0.2, 0.0, 0.3)]
    row = feeds.row("cnn", "records", times, noted, _READY)
    # Ratios 0.5, 0.8, 1, 0.5, 0.8.
    assert row["ratio"] == pytest.approx(0.8)
    assert (row["ratio_q1"], row["ratio_q3"]) == pytest.approx((0.5, 0.9))
    assert (row["ms"], row["steps_per_s"], row["waiting"]) == pytest.approx((20.0, 50.0, 0.2))


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
