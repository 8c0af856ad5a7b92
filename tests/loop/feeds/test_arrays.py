"""Arrays on the device, gathered into batches."""

import numpy as np
import pytest
import tensorflow as tf

from loop.feeds import Arrays, Order, layout


def _arrays(size=23):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, [size, 3, 2]).astype(np.uint8),
        "label": np.arange(100, 100 + size, dtype=np.int32),
    }


def _batches(feed, first_step, count, place=None, *, jit=None):
    """Rows of one chunk, gathered inside one compiled call as the loop does."""
    place = place or layout(feed.batch_size)
    chunk = feed.chunk(first_step, count, count + 1, place)
    assert all(len(array) == count + 1 for array in chunk.values())
    gather = tf.function(
        lambda resident, chunk, row: feed.batch(resident, chunk, row), jit_compile=jit
    )
    tensors = {name: tf.constant(array) for name, array in chunk.items()}
    resident = feed.resident()
    return [gather(resident, tensors, tf.constant(row)) for row in range(count)]


@pytest.mark.parametrize("jit", [None, True])
def test_batches_hold_the_examples_of_the_order(jit):
    """Batch s holds the places s * B ... of the endless sequence of epochs, dtype and all."""
    arrays = _arrays()
    feed = Arrays(arrays, batch_size=6, seed=9)
    order = Order(23, 9).indices(np.arange(6 * 12))
    for row, batch in enumerate(_batches(feed, 4, 8, jit=jit)):
        index = order[(4 + row) * 6 : (5 + row) * 6]
        assert batch["image"].dtype == tf.uint8
        assert np.array_equal(batch["image"], arrays["image"][index])
        assert np.array_equal(batch["label"], arrays["label"][index])
        assert np.array_equal(feed.example_ids(4 + row), index)


def test_no_example_is_dropped_between_epochs():
    """23 batches of 6 are 6 epochs of 23: each example comes exactly 6 times."""
    feed = Arrays(_arrays(), batch_size=6, seed=1)
    ids = np.concatenate([feed.example_ids(step) for step in range(23)])
    assert np.bincount(ids, minlength=23).tolist() == [6] * 23


def test_a_chunk_far_into_a_run_does_not_depend_on_its_start():
    """Step 10**9 has the same examples whether its call starts there or before."""
    feed = Arrays(_arrays(), batch_size=7, seed=4)
    far = 10**9
    place = layout(7)
    chunk = feed.chunk(far - 2, 3, 3, place)["index"]
    assert np.array_equal(chunk[2], feed.chunk(far, 1, 1, place)["index"][0])
    assert np.array_equal(chunk[2], feed.example_ids(far))


def test_replicas_divide_the_batch():
    """Three replicas' unmasked examples are the batch of one, and the mask has a row a step."""
    feed = Arrays(_arrays(), batch_size=8, seed=2)
    whole = _batches(feed, 3, 1)[0]["label"].numpy()
    found = np.full(8, -1)
    for replica in range(3):
        place = layout(8, replicas=3, replica=replica)
        chunk = feed.chunk(3, 1, 2, place)
        assert chunk["mask"].shape == chunk["index"].shape == (2, 3)
        labels = _batches(feed, 3, 1, place)[0]["label"].numpy()
        found[place.positions[place.mask]] = labels[place.mask]
    assert np.array_equal(found, whole)


def test_partners_are_the_batch_mirrored():
    """Example j's partner is example B - 1 - j of the global batch, also on a replica."""
    feed = Arrays(_arrays(), batch_size=8, seed=2, partners=True)
    whole = _batches(feed, 5, 1)[0]
    assert np.array_equal(whole["partner"]["label"], whole["label"][::-1])
    place = layout(8, replicas=2, replica=1)
    local = _batches(feed, 5, 1, place)[0]
    assert np.array_equal(local["label"], whole["label"][4:])
    assert np.array_equal(local["partner"]["image"], whole["image"][:4][::-1])


def test_the_transform_comes_after_the_gather():
    """A transform sees the batch in the stored dtype and its result is the batch."""
    feed = Arrays(
        _arrays(),
        batch_size=4,
        shuffle=False,
        transform=lambda batch: {**batch, "image": tf.cast(batch["image"], tf.float32) - 7},
    )
    batch = _batches(feed, 0, 1)[0]
    assert np.array_equal(batch["image"], _arrays()["image"][:4].astype(np.float32) - 7)
    assert batch["label"].numpy().tolist() == [100, 101, 102, 103]


@pytest.mark.parametrize("replicas", [1, 3])
def test_evaluation_covers_every_example_once(replicas):
    """In storage order over all replicas, the last partial batch padded and masked."""
    feed = Arrays(_arrays(), batch_size=5, seed=6)
    seen = []
    for replica in range(replicas):
        chunk = feed.evaluation_chunk(5, layout(5, replicas=replicas, replica=replica))
        assert chunk["index"].shape == chunk["mask"].shape
        assert chunk["index"].shape[0] == 5
        seen.extend(chunk["index"][chunk["mask"]].tolist())
    assert sorted(seen) == list(range(23))


@pytest.mark.parametrize(
    ("arrays", "batch_size", "message"),
    [
        ({}, 1, "expected at least one array, found none"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, 1, "found {'a': 3, 'b': 4}"),
        ({"a": np.zeros(3)}, 4, "batch_size must be from 1 to the 3 examples, got 4"),
        ({"a": np.zeros(3)}, 0, "batch_size must be from 1 to the 3 examples, got 0"),
        ({"a": np.zeros(0)}, 1, "batch_size must be from 1 to the 0 examples, got 1"),
    ],
)
def test_refuses_arrays_that_make_no_batch(arrays, batch_size, message):
    """Unequal or empty arrays and a batch larger than all are refused before any step."""
    with pytest.raises(ValueError, match=message):
        Arrays(arrays, batch_size=batch_size)
