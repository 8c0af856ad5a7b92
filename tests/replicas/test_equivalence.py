"""One replica, two, four and two worker processes train the same model."""

import re

import numpy as np
import pytest

from tests.replicas import cases, pairwise, runs

_FLOAT64 = 1e-10
_FLOAT32 = 1e-5


def _both(out, pair):
    case, count = pair
    return runs.read(out, case.name, 1), runs.read(out, case.name, count or "workers")


@pytest.mark.parametrize("name", pairwise.FLOAT64)
def test_float64_runs_agree(out, name):
    """Losses, norms, clip decisions, weights, slots and statistics agree after every step."""
    case, _ = pairwise.FLOAT64[name]
    one, several = _both(out, pairwise.FLOAT64[name])
    assert int(one.arrays["state/global_step"]) == case.steps
    for part in ("row", "state"):
        difference, where = runs.largest_difference(one.part(part), several.part(part))
        assert difference < _FLOAT64, where
    assert one.part("row")["clipped"].mean() > 0.5 or not case.clip
    np.testing.assert_array_equal(one.part("row")["clipped"], several.part("row")["clipped"])
    assert not several.seen["copies_differ"]


@pytest.mark.parametrize(
    "name", [name for name, (case, _) in pairwise.FLOAT64.items() if case.bits]
)
def test_examples_and_random_bits_are_the_same(out, name):
    """Ids, augmented images and dropout masks of the global batch are equal to the bit."""
    case, _ = pairwise.FLOAT64[name]
    one, several = (result.part("bits") for result in _both(out, pairwise.FLOAT64[name]))
    feed, data = cases.feed(case), cases.data(case)
    for step in range(3):
        ids = feed.example_ids(step)
        np.testing.assert_array_equal(one[f"{step}/ids"], ids)
        assert np.abs(one[f"{step}/image"] - data["image"][ids]).max() > 0.1
        assert 0 < (one[f"{step}/kept"] == 0).mean() < 0.6
    assert list(one) == list(several)
    for name, value in one.items():
        np.testing.assert_array_equal(value, several[name], err_msg=name)
    assert (one["0/kept"] != one["1/kept"]).any()


@pytest.mark.parametrize("name", pairwise.FLOAT32)
def test_float32_steps_from_one_state_agree(out, name):
    """Each of 100 steps from the same state ends within 1e-5 of every tensor's norm."""
    case, _ = pairwise.FLOAT32[name]
    one, several = _both(out, pairwise.FLOAT32[name])
    # Adam divides by the root of a moment, however small: there gradients are held by the moments.
    names = [
        name
        for name in one.part("states")
        if case.optimizer != "adam" or not name.startswith("model/")
    ]
    assert len(names) > 5
    differences = runs.step_differences(one, several, names)
    assert len(differences) == 100
    assert max(differences) < _FLOAT32


def test_float32_runs_part_no_faster_than_by_order(out, record_property):
    """After 100 free steps two replicas differ about as one does from its batches reordered."""
    one, two = _both(out, pairwise.FLOAT32["single-precision"])
    control = runs.read(out, pairwise.CONTROL.name, 1)
    by_replicas, _ = runs.largest_difference(one.part("state"), two.part("state"))
    by_order, _ = runs.largest_difference(one.part("state"), control.part("state"))
    record_property("two replicas", by_replicas)
    record_property("one replica, batches reordered", by_order)
    assert 0 < by_replicas < max(30 * by_order, 1e-5)


@pytest.mark.parametrize("name", pairwise.POISONED)
def test_infinity_on_one_replica_skips_the_step_on_all(out, name):
    """Where one replica's slice holds an Inf, nothing but the counter moves, on any replica."""
    case, count = pairwise.POISONED[name]
    feed = cases.feed(case)
    poisoned = [case.poison in feed.example_ids(step) for step in range(case.steps)]
    assert 0 < sum(poisoned) < case.steps
    for result in _both(out, pairwise.POISONED[name]):
        np.testing.assert_array_equal(result.part("row")["finite"] == 0, poisoned)
        for state, values in result.part("states").items():
            for step in np.flatnonzero(poisoned) if state != "global_step" else ():
                before = values[step]
                if result.seen["replicas"] == count:
                    before = runs.read(out, name, 1).part("states")[state][step]
                np.testing.assert_array_equal(values[step + 1], before, err_msg=state)
    one, several = _both(out, pairwise.POISONED[name])
    difference, where = runs.largest_difference(one.part("state"), several.part("state"))
    assert difference < _FLOAT64, where
    assert np.isfinite(list(map(np.sum, several.part("state").values()))).all()
    assert not several.seen["copies_differ"]


def test_moments_of_each_replica_average_by_examples(out):
    """Replicas of one example and of none: the mean that is kept is that of the whole batch."""
    one, several = _both(out, pairwise.EACH_ITS_OWN_NORM)
    assert np.isfinite(several.part("states")["model/norm/moving_variance"]).all()
    mean = "model/norm/moving_mean"
    assert max(runs.step_differences(one, several, [mean])) < _FLOAT64
    assert not several.seen["copies_differ"]


@pytest.mark.parametrize(
    "name", [name for name, (case, _) in pairwise.FLOAT64.items() if case.evaluated]
)
def test_evaluation_counts_each_example_once(out, name):
    """A last batch of one example leaves most replicas empty; the means are those of all."""
    one, several = (result.part("mean") for result in _both(out, pairwise.FLOAT64[name]))
    size = len(cases.data(cases.Case("any"))["id"])
    assert one["id"] == several["id"] == (size - 1) / 2
    np.testing.assert_allclose(one["top"], several["top"], rtol=1e-9)


@pytest.mark.parametrize("name", ["embedding", "embedding-accumulated", "workers-embedding"])
def test_sparse_gradients_stay_sparse(out, name):
    """The optimizer gets an embedding's gradient as slices, gathered and not summed densely."""
    _, several = _both(out, pairwise.FLOAT64[name])
    kinds = several.seen["kinds"]
    assert kinds.count("IndexedSlices") == 1
    assert len(kinds) == 5
    collectives = several.seen["collectives"]
    assert collectives["CollectiveReduceV2"] == 1
    gathers = {kind: n for kind, n in collectives.items() if "Gather" in kind}
    assert gathers


@pytest.mark.parametrize(
    ("name", "reductions"),
    [
        ("single-precision", 3),  # and one each way of the synchronised BatchNorm
        ("single-precision-adam", 1),
        ("mlp-adam", 1),
        ("xla", 1),
        ("mlp", 3),
        ("empty", 3),
        ("cnn-accumulated", 9),
        ("workers", 3),
    ],
)
def test_an_update_takes_one_collective(out, name, reductions):
    """A step reduces once, however many micro-batches, and once each way a synchronised layer."""
    case, count = {**pairwise.FLOAT64, **pairwise.FLOAT32}[name]
    several = runs.read(out, case.name, count or "workers")
    assert several.seen["collectives"] == {"CollectiveReduceV2": reductions}
    assert runs.read(out, case.name, 1).seen["collectives"] == {}


def test_a_cut_run_on_two_replicas_resumes_to_the_bit(out):
    """Stopped at step 60 and resumed on two replicas, the state is that of the uncut run."""
    _, two = _both(out, pairwise.FLOAT64["mlp"])
    uncut, resumed = two.part("state"), two.part("resumed")
    assert list(uncut) == list(resumed)
    for name, value in uncut.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)
    assert not any("not bit-exact" in line for line in two.seen["log"])


def test_a_run_on_two_replicas_goes_on_on_one_with_a_warning(out):
    """The same examples follow, to rounding, and the log says that it is not bit-exact."""
    one, _ = _both(out, pairwise.FLOAT64["mlp"])
    case, _ = pairwise.FLOAT64["mlp"]
    for name, value in one.part("resumed_row").items():
        np.testing.assert_allclose(
            value, one.part("row")[name][case.cut :], rtol=_FLOAT64, atol=1e-14, err_msg=name
        )
    difference, where = runs.largest_difference(one.part("state"), one.part("resumed"))
    assert 0 < difference < _FLOAT64, where
    warned = [line for line in one.seen["log"] if "not bit-exact" in line]
    assert len(warned) == 1
    assert re.search(r"replicas.*2.*1", warned[0])
