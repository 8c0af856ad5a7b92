"""Where the time goes, on a clock of the test's own."""

import pytest

import loop
from loop.actions.meter import peak_rss_bytes


class _Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_phases_are_kept_apart():
    """Each phase adds up its own time and no other's."""
    clock = _Clock()
    meter = loop.Meter(clock)
    for name, spent in [("compile", 7.0), ("train", 2.0), ("evaluate", 0.5), ("train", 1.5)]:
        with meter.phase(name):
            clock.now += spent
        clock.now += 10.0  # between phases: nobody's time
    assert meter.seconds == {
        "compile": 7.0,
        "input": 0.0,
        "train": 3.5,
        "evaluate": 0.5,
        "checkpoint": 0.0,
    }


def test_rates_leave_compile_evaluation_and_checkpoints_out():
    """A step's time is training's alone; examples a second also count the wait for input."""
    clock = _Clock()
    meter = loop.Meter(clock)
    for name, spent in [("compile", 50.0), ("input", 1.0), ("train", 3.0), ("checkpoint", 9.0)]:
        with meter.phase(name):
            clock.now += spent
    meter.count(4, 64)
    meter.count(2, 32)
    assert (meter.steps, meter.examples) == (6, 96)
    assert meter.seconds_per_step == 0.5
    assert meter.examples_per_second == 24.0


def test_rates_are_zero_before_any_step():
    """No step yet: no division by zero."""
    meter = loop.Meter(_Clock())
    assert (meter.seconds_per_step, meter.examples_per_second) == (0.0, 0.0)


def test_a_phase_that_fails_still_counts():
    """Time spent until an error is spent."""
    clock = _Clock()
    meter = loop.Meter(clock)

    @meter.phase("checkpoint")
    def save():
        clock.now += 2.0
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        save()
    assert meter.seconds["checkpoint"] == 2.0


def test_peak_rss_is_in_bytes():
    """A process with TensorFlow in it holds more than 100 MB and less than 100 GB."""
    assert 100e6 < peak_rss_bytes() < 100e9
