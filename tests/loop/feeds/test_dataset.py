"""Batches from tf.data, against the same batches from arrays."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import loop
from loop import distribute, step_context
from loop.feeds import Dataset, FeedError, batch_at, layout, repeated
from tests.loop import steps
from tests.loop.feeds import feed_runs


def _seeking(reads=None):
    """A factory that starts at any step, of the batches that `Arrays` makes."""
    arrays, data = feed_runs.arrays_feed(), feed_runs.data()

    def make(seed, start_step):
        assert seed == 5

        def batches():
            step = start_step
            while True:
                if reads is not None:
                    reads.append(step)
                yield {name: array[arrays.example_ids(step)] for name, array in data.items()}
                step += 1

        shapes = {
            n: tf.TensorSpec([feed_runs.BATCH, *a.shape[1:]], a.dtype) for n, a in data.items()
        }
        return tf.data.Dataset.from_generator(batches, output_signature=shapes)

    return make


def _feed(make, **options):
    return Dataset(make, batch_size=feed_runs.BATCH, seed=5, **options)


def _plain(shuffle_buffer=20):
    examples = tf.data.Dataset.from_tensor_slices(feed_runs.data())
    return repeated(examples, batch_size=feed_runs.BATCH, shuffle_buffer=shuffle_buffer)


def test_a_run_is_that_of_the_same_batches_from_arrays(tmp_path):
    """Uncut, cut and resumed, stopped and gone on with: one state, bit for bit."""
    expected = feed_runs.trained(feed_runs.arrays_feed())
    assert steps.same(feed_runs.trained(_feed(_seeking())), expected)
    assert steps.same(feed_runs.cut(lambda: _feed(_seeking()), tmp_path / "cut"), expected)
    assert steps.same(feed_runs.stopped(_feed(_seeking())), expected)


def test_a_shuffled_data_set_resumes_bit_for_bit(tmp_path):
    """`repeated` reshuffles every epoch from the seed, and skips to where a run was cut."""
    expected = feed_runs.trained(_feed(_plain()))
    assert steps.same(feed_runs.cut(lambda: _feed(_plain()), tmp_path / "cut"), expected)
    of_seed = [
        Dataset(_plain(), batch_size=feed_runs.BATCH, seed=seed).chunk(
            0, 4, 4, layout(feed_runs.BATCH)
        )["batch/y"]
        for seed in (5, 6)
    ]
    assert not np.array_equal(*of_seed)


def test_replicas_train_on_the_batches_of_arrays():
    """On two virtual CPUs, in a process of their own: the same state, bit for bit."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.loop.feeds.test_dataset"],
        cwd=pathlib.Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.splitlines()[-1] == "same"


def _on_two_replicas():
    replicas = distribute.mirrored(virtual_devices=2)
    expected = feed_runs.trained(feed_runs.arrays_feed(), replicas=replicas)
    found = feed_runs.trained(_feed(_seeking()), replicas=replicas)
    print("same" if steps.same(found, expected) else "different")


def test_repeated_epochs_hold_every_example_once():
    """37 batches of 8 are 8 epochs of 37, each in an order of its own."""
    chunk = _feed(_plain()).chunk(0, 37, 37, layout(feed_runs.BATCH))
    epochs = chunk["batch/y"].reshape(8, 37)
    expected = np.sort(feed_runs.data()["y"])
    assert all(np.array_equal(np.sort(epoch), expected) for epoch in epochs)
    assert len({epoch.tobytes() for epoch in epochs}) == 8


def test_replicas_share_one_reading_of_the_global_batch():
    """Three replicas' places of one batch, padded and masked; every step is read once."""
    reads = []
    feed = _feed(_seeking(reads))
    ids, y = feed_runs.arrays_feed(), feed_runs.data()["y"]
    for first, count in ((0, 3), (3, 2)):
        found = np.full([count, feed_runs.BATCH], np.nan)
        for replica in range(3):
            place = layout(feed_runs.BATCH, replicas=3, replica=replica)
            chunk = feed.chunk(first, count, 4, place)
            assert chunk["batch/x"].shape == (4, 3, 5)
            assert chunk["mask"].shape == (4, 3)
            found[:, place.positions[place.mask]] = chunk["batch/y"][:count][:, place.mask]
        expected = [y[ids.example_ids(first + row)] for row in range(count)]
        assert np.array_equal(found, expected)
    assert reads == list(range(len(reads)))  # tf.data reads a few ahead, none twice.


def test_a_chunk_of_no_steps_has_its_shapes():
    """What a call that only compiles is given; the first real one is none the poorer."""
    feed = _feed(_seeking())
    empty = feed.chunk(0, 0, 4, layout(feed_runs.BATCH))
    chunk = feed.chunk(0, 2, 4, layout(feed_runs.BATCH))
    assert {n: (a.shape, a.dtype) for n, a in empty.items()} == {
        n: (a.shape, a.dtype) for n, a in chunk.items()
    }
    y = feed_runs.data()["y"]
    assert np.array_equal(chunk["batch/y"][0], y[feed_runs.arrays_feed().example_ids(0)])


def test_a_batch_to_look_at_is_the_steps_own():
    """Transformed with the step's seed and positions, and training is not disturbed."""

    def transform(batch):
        context = step_context.current("test")
        shift = tf.cast(context.global_step * 100 + context.seed, tf.float32)
        return {**batch, "y": batch["y"] + shift}

    feed = _feed(_seeking(), transform=transform)
    y = feed_runs.data()["y"]
    feed.chunk(0, 2, 2, layout(feed_runs.BATCH))
    for step in (7, 2):
        expected = y[feed_runs.arrays_feed().example_ids(step)] + np.float32(step * 100 + 5)
        assert np.array_equal(batch_at(feed, step)["y"], expected)
    chunk = feed.chunk(2, 1, 2, layout(feed_runs.BATCH))
    assert np.array_equal(chunk["batch/y"][0], y[feed_runs.arrays_feed().example_ids(2)])


@pytest.mark.parametrize("batches_per_call", [2, 16])
def test_an_evaluation_streams_every_example_once(batches_per_call):
    """37 examples in batches of 8, the last of 5, over several calls: NumPy's mean."""
    examples = tf.data.Dataset.from_tensor_slices(feed_runs.data())
    feed = _feed(lambda _, start: examples.batch(feed_runs.BATCH).skip(start))
    evaluation = loop.Evaluation(
        lambda batch: {"y": batch["y"], "square": batch["y"] ** 2 - 1},
        feed,
        batches_per_call=batches_per_call,
    ).compiled("graph", distribute.single())
    evaluation.compile()
    y = feed_runs.data()["y"].astype(np.float64)
    for _ in range(2):
        found = evaluation()
        np.testing.assert_allclose(found["y"], y.mean(), rtol=1e-12)
        np.testing.assert_allclose(found["square"], (y**2).mean() - 1, rtol=1e-6)
    assert evaluation.traces == 1


def _dataset(batch, count=4):
    return lambda _, start: tf.data.Dataset.from_tensors(batch).repeat(count).skip(start)


def _divided(number):
    return {"x": tf.fill([8], tf.constant(7, tf.int64)) // number}


def _two_kinds(seed, start):
    del seed, start
    wide = tf.data.Dataset.from_tensors({"x": tf.zeros([8, 3])})
    spec = {"x": tf.TensorSpec([8, None])}
    narrow = [{"x": np.zeros([8, 2], np.float32)}]
    return wide.concatenate(
        tf.data.Dataset.from_generator(lambda: iter(narrow), output_signature=spec)
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_dataset({"x": np.zeros([8])}, 2), r"ran dry at step 2: .*repeat\(\) the data set"),
        (_dataset({"x": np.zeros([7])}), r"'x' of step 0 has shape \(7,\), expected batch_size=8"),
        (_dataset({"x": np.zeros([])}), r"'x' of step 0 has shape \(\), expected batch_size=8"),
        (
            _dataset({"x": {"y": np.zeros([8])}, "x/y": np.zeros([8])}),
            "step 0: expected one leaf of each name, found two of 'x/y'; rename one",
        ),
        (
            _two_kinds,
            r"step 1 differs from the first: 'x' expected float32\[3\], found float32\[2\]",
        ),
        (
            lambda _, start: tf.data.Dataset.range(start, 9).map(_divided),
            "the batch of step 0 failed: .*division by zero",
        ),
    ],
)
def test_a_batch_that_does_not_fit_is_one_line(make, message):
    """The step, what was expected, what was found."""
    feed = Dataset(make, batch_size=8)
    with pytest.raises(FeedError, match=message) as caught:
        feed.chunk(0, 3, 3, layout(8))
    assert "\n" not in str(caught.value)


def test_a_data_set_that_cannot_be_exact_is_refused():
    """No data set, an order of chance, an endless evaluation, no batch size."""
    place = layout(8)
    with pytest.raises(TypeError, match=r"make expected to return a tf.data.Dataset, found .*list"):
        Dataset(lambda *_: [], batch_size=8).chunk(0, 1, 1, place)
    options = tf.data.Options()
    options.deterministic = False
    loose = _dataset({"x": tf.zeros([8])})(0, 0).with_options(options)
    with pytest.raises(ValueError, match="expected a deterministic data set"):
        Dataset(lambda *_: loose, batch_size=8).chunk(0, 1, 1, place)
    with pytest.raises(ValueError, match="expected a finite data set, found an infinite one"):
        _feed(_plain()).evaluation_chunks([place], 2)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Dataset(_plain(), batch_size=0)


if __name__ == "__main__":
    _on_two_replicas()
