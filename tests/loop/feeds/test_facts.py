"""What tells the data of one run from another's: a resume on other data is refused by name."""

import logging

import numpy as np
import pytest
import tensorflow as tf

import loop
from loop import feeds
from loop.feeds import facts, facts_of
from loop.run.directory import ConfigurationChangedError
from tests.loop import steps
from tests.loop.feeds import feed_runs
from tests.loop.feeds.test_records import parse, write_examples


def _shards(folder, data=None, cuts=((0, 20), (20, 37))):
    return write_examples(folder, feed_runs.data() if data is None else data, cuts)


def _arrays(change=None, **options):
    data = feed_runs.data()
    if change is not None:
        change(data)
    return feeds.Arrays(data, **{"batch_size": feed_runs.BATCH, "seed": 5, **options})


def _records(folder, **options):
    return feeds.Records(
        _shards(folder), parse, **{"batch_size": feed_runs.BATCH, "seed": 5, **options}
    )


def _dataset(dtype=tf.float32, size=feed_runs.BATCH):
    examples = tf.data.Dataset.from_tensor_slices(feed_runs.data()).map(
        lambda example: {**example, "y": tf.cast(example["y"], dtype)}
    )
    make = feeds.repeated(examples, batch_size=size, shuffle_buffer=9)
    return feeds.Dataset(make, batch_size=size, seed=5)


def _first(data):
    data["x"] = data["x"].copy()
    data["x"][0, 3] += 1


def _swapped(data):
    data["y"] = data["y"][::-1].copy()


def _wider(data):
    data["x"] = np.pad(data["x"], [(0, 0), (0, 1)])


def _double(data):
    data["y"] = data["y"].astype(np.float64)


def _fewer(data):
    data.update({name: array[:30] for name, array in data.items()})


def _renamed(data):
    data["target"] = data.pop("y")


_CHANGES = {
    "one value of the first example": (_arrays, {"change": _first}, ["fingerprint.x: saved '"]),
    "labels in another order": (_arrays, {"change": _swapped}, ["fingerprint.y: saved '"]),
    "another width": (
        _arrays,
        {"change": _wider},
        ["features.x: saved 'float32[5]', now 'float32[6]'"],
    ),
    "another dtype": (
        _arrays,
        {"change": _double},
        ["features.y: saved 'float32[]', now 'float64[]'"],
    ),
    "fewer examples": (_arrays, {"change": _fewer}, ["examples: saved 37, now 30"]),
    "another name": (
        _arrays,
        {"change": _renamed},
        ["features.target: saved nothing, now 'float32[]'", "features.y: saved 'float32[]'"],
    ),
    "batch size": (_arrays, {"batch_size": 16}, ["batch_size: saved 8, now 16"]),
    "no shuffle": (_arrays, {"shuffle": False}, ["shuffle: saved True, now False"]),
    "partners": (_arrays, {"partners": True}, ["partners: saved False, now True"]),
    "seed": (_arrays, {"seed": 6}, ["seed: saved 5, now 6"]),
    "a stream of another batch size": (_dataset, {"size": 4}, ["batch_size: saved 8, now 4"]),
    "a stream of another dtype": (
        _dataset,
        {"dtype": tf.float64},
        ["features.y: saved 'float32[]', now 'float64[]'"],
    ),
}


@pytest.mark.parametrize("what", _CHANGES)
def test_a_resume_on_other_data_is_refused_by_name(what, tmp_path, caplog):
    """One line names each fact with both values and the way to accept it, which then resumes."""
    make, options, named = _CHANGES[what]
    with feed_runs.trainer(make(), directory=tmp_path) as saved:
        saved.train(until=3)
    with (
        feed_runs.trainer(make(**options), directory=tmp_path) as other,
        pytest.raises(ConfigurationChangedError) as refused,
    ):
        other.train(until=4)
    message = str(refused.value)
    assert all(part in message for part in [*named, str(tmp_path), "allow_change=True"]), message
    assert "\n" not in message
    accepting = loop.RunDirectory(tmp_path, allow_change=True)
    with (
        feed_runs.trainer(make(**options), directory=accepting) as other,
        caplog.at_level(logging.WARNING),
    ):
        assert other.open().step == 3
    assert all(any(part in line for line in caplog.messages) for part in named)
    # Nothing is refused that is equal.
    with feed_runs.trainer(make(), directory=tmp_path) as same:
        same.train(until=4)


def test_each_example_is_seen_once_or_the_resume_is_refused(tmp_path):
    """An epoch of 100 as 4 steps of 10 and 3 of 20 would leave 25 out and take 25 twice."""
    seen = tf.Variable(tf.zeros([100], tf.int32), trainable=False, name="seen")

    def step(batch):
        ones = tf.ones_like(batch["i"])
        seen.assign(tf.tensor_scatter_nd_add(seen.read_value(), batch["i"][:, None], ones))
        return {"mean": tf.reduce_mean(tf.cast(batch["i"], tf.float32))}

    def train(until, batch_size, size=100):
        feed = feeds.Arrays({"i": np.arange(size, dtype=np.int32)}, batch_size=batch_size)
        with loop.Trainer(
            step=step, feed=feed, state={"seen": seen}, compile="graph", directory=tmp_path
        ) as trainer:
            trainer.train(until=until)

    train(4, 10)
    with pytest.raises(ConfigurationChangedError, match="batch_size: saved 10, now 20"):
        train(7, 20)
    with pytest.raises(ConfigurationChangedError, match="examples: saved 100, now 50"):
        train(8, 10, size=50)
    train(10, 10)
    assert seen.numpy().tolist() == [1] * 100


def test_accumulation_is_a_fact_of_the_step(tmp_path):
    """A step of other micro-batches takes other moments; it is no resume of the run either."""

    def trainer(accumulate):
        net = steps.Net(dtype=tf.float32)
        step = loop.GradientStep(
            steps.squared_errors(net),
            net.trainable_variables,
            loop.optimizers.SGD(0.1),
            accumulate=accumulate,
        )
        return loop.Trainer(
            step=step, feed=_arrays(), state=net, compile="graph", directory=tmp_path
        )

    with trainer(2) as run:
        run.train(until=2)
    with (
        trainer(4) as run,
        pytest.raises(ConfigurationChangedError, match="accumulate: saved 2, now 4"),
    ):
        run.open()


def test_records_have_the_facts_of_arrays(tmp_path):
    """The same examples in shards and in memory are one run's data; what only files have is more.

    Their names, sizes and numbers of records tell shards apart where the read examples are equal.
    """
    expected = facts_of(_arrays(), None)
    found = facts_of(_records(tmp_path / "a"), None)
    assert {name: found[name] for name in expected} == expected
    files = found["files"]
    assert (files["count"], files["bytes"]) == (
        2,
        sum(path.stat().st_size for path in (tmp_path / "a").iterdir()),
    )
    paths = _shards(tmp_path / "b", cuts=((0, 21), (21, 37)))
    other = facts_of(feeds.Records(paths, parse, batch_size=8), None)
    assert other["fingerprint"] == found["fingerprint"]
    assert other["files"]["names_and_sizes"] != files["names_and_sizes"]


def test_strings_and_nests_have_facts():
    """Strings are told apart by their bytes, however stored; nested arrays by their paths."""
    words = ["a", "bc", "a", "ß"]
    unicode, encoded = np.array(words), np.array([word.encode() for word in words], object)

    def of(array):
        return facts.fingerprint(facts.sampled_elements(row) for row in array)

    assert of(unicode) == of(encoded)
    assert of(unicode) != of(np.array(["ab", "c", "a", "ß"]))
    assert facts.feature(unicode.dtype, []) == facts.feature(encoded.dtype, []) == "string[]"
    nested = feeds.Arrays({"in": {"a": np.zeros(4), "b": (np.ones(4),)}}, batch_size=2)
    assert list(nested.facts()["features"]) == ["in/a", "in/b/0"]


def test_a_feed_that_tells_nothing_is_compared_by_batch_size():
    """A feed of the user's own needs no facts; the batch size is the protocol's."""

    class Own:
        batch_size, seed = 12, 0

    assert facts_of(Own(), None) == {"batch_size": 12, "accumulate": 1}


def test_facts_read_a_bounded_part():
    """64 examples of some 1,000 elements are read whatever the size, all of them where fewer."""
    large = np.broadcast_to(np.float32(1.5), (10**9, 3000))
    places = facts.sampled_examples(len(large))
    assert (len(places), places[0], places[-1]) == (64, 0, 10**9 - 1)
    assert facts.sampled_examples(3).tolist() == [0, 1, 2]
    assert 1000 <= len(facts.sampled_elements(large[0])) < 2048
    assert len(facts.sampled_elements(np.ones(700))) == 700
    feed = feeds.Arrays({"x": large}, batch_size=4)  # 12 TB, were all of it read.
    assert facts_of(feed, None)["features"] == {"x": "float32[3000]"}


def test_data_that_were_not_finite_may_be_repaired(tmp_path, caplog):
    """A run that stopped at a bad example goes on, with a line, when that is mended (case 03)."""

    def broken(data):
        data["x"] = data["x"].copy()
        data["x"][0, 2] = np.inf

    def trainer(change):
        return feed_runs.trainer(_arrays(change, shuffle=False), directory=tmp_path)

    with trainer(broken) as run, pytest.raises(loop.NonFiniteError):
        run.train(until=4)
    with trainer(None) as run:
        run.train(until=4)
        assert int(run.global_step) == 4
    assert "the data were not finite, and are taken as repaired: fingerprint.x" in (caplog.text)
    with trainer(_first) as run, pytest.raises(ConfigurationChangedError, match=r"fingerprint\.x"):
        run.open()
