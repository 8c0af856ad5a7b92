"""The benchmark of the finite check: what it compares, and how sure it is of a median."""

import math

import pytest

from experiments.benchmark import workloads
from experiments.benchmark.contenders import tapestep
from experiments.benchmark.measurements import finite_check
from loop import GlobalStep


@pytest.mark.parametrize("name", ["tiny", finite_check.PROGRAM])
def test_one_loop_has_the_check_and_the_other_none(name):
    """Both train the same variables; without the check nothing asks whether a value is finite."""
    if name == finite_check.PROGRAM:
        training = finite_check.training(name)._replace(steps_per_call=2)
    else:
        like = tapestep.Contender(workloads.WORKLOADS[name], 2, compile="graph", as_told=True)
        training = finite_check.Training(like.step, like.feed, "graph", 2)
    counter = GlobalStep()
    with_check, without = (
        finite_check.traced(training, counter, checked=checked) for checked in (True, False)
    )
    assert "IsFinite" in with_check.operations()
    assert not {"IsFinite", "If", "StatelessIf"} & set(without.operations())
    zeros = [each.operations().count("MulNoNan") for each in (with_check, without)]
    assert zeros[0] > zeros[1] if name == finite_check.PROGRAM else zeros[0] == zeros[1]
    assert int(counter) == 4


@pytest.mark.parametrize("count", [20, 100, 281])
def test_the_bounds_hold_the_median_with_95_percent(count):
    """By the binomial distribution of how many of n values lie below the true median."""
    low, high = finite_check.median_bounds([float(value) for value in reversed(range(count))])
    outside = sum(math.comb(count, below) for below in range(int(low) + 1)) / 2**count
    assert high == count - 1 - low
    assert 0.93 < 1 - 2 * outside < 0.99
