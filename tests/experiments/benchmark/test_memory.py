"""Streaming under a limit on memory that its data does not fit in."""

from __future__ import annotations

import pytest

from experiments.benchmark.measurement import whole
from experiments.benchmark.measurements import memory
from experiments.entry.errors import InputError
from tests.experiments import lines


def test_an_epoch_larger_than_the_memory_allowed_streams_in_flat_memory() -> None:
    """Every example once and no growth where the same examples as arrays die of the limit."""
    result = whole(memory.measure(1.25))
    streamed, arrays, little = result["rows"]
    assert streamed["outcome"] == "trained", streamed
    assert streamed["each_once"] is True
    assert len(streamed["rss_mb"]) >= 10
    assert streamed["growth_mb"] < 40
    assert streamed["data_mb"] == arrays["data_mb"] >= 1.25 * streamed["limit_mb"]
    assert streamed["data_segment_mb"] < streamed["limit_mb"] < arrays["data_mb"]
    # NumPy is refused the memory; it is the limit that kills, since a little is no trouble.
    assert arrays["outcome"].startswith("died, status 1:")
    assert "Unable to allocate" in arrays["outcome"]
    assert little["outcome"] == "trained", little


def test_a_disk_without_room_is_refused(tmp_path) -> None:
    """In one line, before anything is written."""
    with pytest.raises(InputError) as caught:
        memory.check_room(str(tmp_path), 2**60)
    lines.check(caught.value, "room for")
