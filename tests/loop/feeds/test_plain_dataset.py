"""A tf.data.Dataset of batches as it is: handed to the trainer, resumed, read for epochs."""

import logging

import numpy as np
import pytest
import tensorflow as tf

import loop
from loop import distribute
from loop.feeds import Arrays, Dataset, FeedError, Records, as_feed, layout
from tests.loop import steps
from tests.loop.feeds import feed_runs


def _shuffled():
    """37 examples in batches of 8, the last of 5, in an order without a seed."""
    return tf.data.Dataset.from_tensor_slices(feed_runs.data()).shuffle(37).batch(8)


def test_a_shuffled_data_set_resumes_bit_for_bit(tmp_path, caplog):
    """Cut in the second of three epochs, in other objects: the state of the uncut run.

    The cost of a resume is one line, and so is the small batch that is left out.
    """
    with caplog.at_level(logging.INFO, logger="loop"), feed_runs.trainer(_shuffled()) as run:
        run.train(epochs=3)
        expected = steps.values(run.state)
        assert int(run.global_step) == 12
        assert run.stop_reason is None
    assert caplog.text.count("a resume is exact, and first reads the batches before its step") == 1
    assert "4 steps an epoch" in caplog.text
    assert "the last batch has 5 of 8 examples and is left out" in caplog.text
    with feed_runs.trainer(_shuffled(), directory=tmp_path) as run:
        run.train(until=3)
    for epochs in (2, 3):
        with feed_runs.trainer(_shuffled(), directory=tmp_path, steps_per_call=2) as run:
            run.train(epochs=epochs)
            assert int(run.global_step) == 4 * epochs
    assert steps.same(steps.values(run.state), expected)


def test_every_epoch_has_an_order_of_its_own():
    """Three epochs of all 37 examples, each another permutation."""
    data = tf.data.Dataset.from_tensor_slices(feed_runs.data())
    feed = Dataset(data.shuffle(37).batch(37), seed=2)
    feed.repeat(3)
    epochs = feed.chunk(0, 3, 3, layout(37))["batch/y"]
    assert feed.available(3, 1) == 0
    assert all(np.array_equal(np.sort(epoch), np.sort(feed_runs.data()["y"])) for epoch in epochs)
    assert len({epoch.tobytes() for epoch in epochs}) == 3


def test_a_factory_makes_each_epoch_with_a_seed_of_its_own():
    """Seeds 5, 6, 7, from the step of the epoch on, where a resume begins too."""
    asked = []

    def make(seed, step):
        asked.append((seed, step))
        return tf.data.Dataset.range(4).batch(2).skip(step)

    feed = Dataset(make, batch_size=2, seed=5)
    feed.repeat(3)
    assert feed.steps_per_epoch == 2
    asked.clear()
    assert feed.available(3, 9) == 3
    assert asked == [(6, 1), (7, 0)]


def test_epochs_are_the_steps_that_see_every_example_so_often(tmp_path):
    """37 examples in batches of 8 from arrays and records: two epochs are 74 examples, 10 steps."""
    with tf.io.TFRecordWriter(str(tmp_path / "shard")) as writer:
        for _ in range(37):
            writer.write(b"12345678")
    records = Records([str(tmp_path / "shard")], lambda text: {"x": text}, batch_size=8)
    for feed in (feed_runs.arrays_feed(), records):
        assert (feed.steps_per_epoch, feed.steps_in(2)) == (5, 10)
    with feed_runs.trainer(feed_runs.arrays_feed()) as run:
        run.train(epochs=2)
        assert int(run.global_step) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 2}, "epochs=2 needs to know how many steps an epoch has, and Dataset does not"),
        ({"epochs": 2, "until": 3}, "found until=3 and epochs=2; leave one out"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
    ],
)
def test_epochs_of_unknown_length_are_refused(arguments, message):
    """One line, before anything is trained."""
    run = feed_runs.trainer(_shuffled().repeat())
    with pytest.raises(ValueError, match=message):
        run.train(**arguments)
    assert int(run.global_step) == 0


def test_an_evaluation_takes_a_data_set_as_it_is():
    """Every example once, the small last batch too: NumPy's mean."""
    found = loop.Evaluation(lambda batch: {"y": batch["y"]}, _shuffled())
    found = found.compiled("graph", distribute.single())()
    mean = feed_runs.data()["y"].astype(np.float64).mean()
    np.testing.assert_allclose(found["y"], mean, rtol=1e-12)


def test_hidden_random_numbers_are_said(caplog):
    """A map that draws by tf.random is no part of an exact resume."""
    drawn = tf.data.Dataset.range(8).map(lambda _: tf.random.uniform([])).batch(2)
    Dataset(drawn)
    assert "draws random numbers that a resume does not draw again (RandomUniform)" in caplog.text


def test_strings_train_in_graph_mode():
    """A column of strings reaches the step: the lengths are NumPy's, from arrays and a stream."""
    words = np.array(["a", "bcd", "ef", "ghijk"])
    for feed in (
        Arrays({"word": words}, batch_size=2, shuffle=False),
        tf.data.Dataset.from_tensor_slices({"word": words}).batch(2),
    ):
        rows = []
        trainer = loop.Trainer(
            step=lambda b: {"length": tf.reduce_sum(tf.strings.length(b["word"]))},
            feed=feed,
            compile="graph",
            writers=[lambda found, rows=rows: rows.extend(found["length"])],
        )
        trainer.train(until=2)
        assert rows == [4, 7]


def test_strings_are_refused_by_name_under_xla():
    """XLA has no strings: the line names the column, for arrays and a stream."""
    words = np.array(["a", "bcd", "ef", "ghijk"])
    data = {"x": np.zeros(4, np.float32), "word": words}
    for feed in (
        Arrays(data, batch_size=2),
        tf.data.Dataset.from_tensor_slices(data).batch(2),
    ):
        trainer = loop.Trainer(
            step=lambda b: {"x": tf.reduce_sum(b["x"])}, feed=feed, compile="xla"
        )
        with pytest.raises(ValueError, match=r"compile=xla: .*'word'.* strings"):
            trainer.train(until=2)


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"x": np.zeros(3)}, r"found dict .*loop.feeds.Arrays\(arrays, batch_size"),
        (np.zeros(3), r"found ndarray .*loop.feeds.Arrays"),
        (iter([1]), r"found list_iterator .*get_state and set_state"),
        (_shuffled, r"found function .*loop.feeds.Dataset\(make"),
        (Arrays, r"make one: Arrays\("),
        (7, r"found int .*docs/extending.md"),
    ],
)
def test_what_is_no_feed_is_named_with_what_to_make_of_it(feed, message):
    """At construction, in one line."""
    with pytest.raises(TypeError, match=message) as caught:
        as_feed(feed, "Trainer")
    assert "\n" not in str(caught.value)


def test_single_examples_are_no_batches():
    """A data set that was not batched, and arguments that make none."""
    examples = tf.data.Dataset.from_tensor_slices(feed_runs.data())
    with pytest.raises(FeedError, match=r"found single examples .*add .batch\(SIZE"):
        Dataset(examples)
    with pytest.raises(TypeError, match=r"found dict; use feeds\.Arrays for arrays"):
        Dataset({"x": np.zeros(3)}, batch_size=1)
    with pytest.raises(ValueError, match="a function that makes the data set needs `batch_size`"):
        Dataset(lambda *_: examples)
    with pytest.raises(TypeError, match=r"use feeds\.Dataset for a tf.data.Dataset"):
        Arrays(examples, batch_size=1)
