"""A data set opened from its graph: one order each time, in each process, and what it says."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from loop.feeds.data_set_graph import Facts, facts, opened


def _numbers(dataset):
    return [int(number) for element in dataset.as_numpy_iterator() for number in np.ravel(element)]


def _interleaved():
    return tf.data.Dataset.range(4).interleave(
        lambda i: tf.data.Dataset.range(10 * i, 10 * i + 10).shuffle(10), cycle_length=2
    )


_SHUFFLED = {
    "without a seed": lambda: tf.data.Dataset.range(20).shuffle(20).batch(3),
    "with a seed": lambda: tf.data.Dataset.range(20).shuffle(20, seed=3).batch(3).prefetch(2),
    "repeated": lambda: tf.data.Dataset.range(20).shuffle(20).repeat(2).map(lambda i: i + 1),
    "in a function": _interleaved,
    "sampled": lambda: tf.data.Dataset.sample_from_datasets(
        [tf.data.Dataset.range(20), tf.data.Dataset.range(20, 40)], [0.5, 0.5]
    ),
}


@pytest.fixture(autouse=True)
def no_global_seed(monkeypatch):
    """What an earlier test set, as `keras.utils.set_random_seed` does, is not there."""
    monkeypatch.setattr(context.context(), "_seed", None)


@pytest.mark.parametrize("kind", _SHUFFLED)
def test_a_shuffle_has_one_order_however_often_it_is_opened(kind):
    """The object itself has another at each opening; ours depends on seed and epoch alone."""
    dataset = _SHUFFLED[kind]()
    itself = [_numbers(dataset) for _ in range(3)]
    assert kind == "sampled" or itself[0] != itself[1]
    first = _numbers(opened(dataset, 5))
    assert sorted(first) == sorted(itself[0])
    assert first == _numbers(opened(dataset, 5)) == _numbers(opened(_SHUFFLED[kind](), 5))
    assert first != _numbers(opened(dataset, 5, epoch=1))
    assert (first == _numbers(opened(dataset, 6))) == (kind == "with a seed")


@pytest.mark.parametrize("kind", _SHUFFLED)
def test_a_global_seed_changes_no_order(kind):
    """TensorFlow would number the shuffles by what the process has made before."""
    tf.random.set_seed(4)
    first = _numbers(opened(_SHUFFLED[kind](), 5))
    assert first == _numbers(opened(_SHUFFLED[kind](), 5))
    # Within a function TensorFlow numbers them by the function's operations: one order for ever.
    assert (first == _numbers(opened(_SHUFFLED[kind](), 6))) == (kind == "in a function")


def test_a_shuffle_with_a_seed_begins_in_its_own_order():
    """Opened from the graph it is what TensorFlow gives at the first opening."""
    dataset = tf.data.Dataset.range(20).shuffle(20, seed=3)
    expected = _numbers(tf.data.Dataset.range(20).shuffle(20, seed=3))
    assert _numbers(opened(dataset, 1)) == expected


def test_an_order_that_is_not_to_change_does_not():
    """With reshuffle_each_iteration=False every epoch is the same."""
    dataset = tf.data.Dataset.range(20).shuffle(20, reshuffle_each_iteration=False)
    assert _numbers(opened(dataset, 5)) == _numbers(opened(dataset, 5, epoch=3))


def test_another_process_has_the_same_order():
    """A shuffle without a seed, opened in a process of its own."""
    program = (
        f"from {__name__} import _SHUFFLED, _numbers, opened\n"
        "print(_numbers(opened(_SHUFFLED['without a seed'](), 5)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=pathlib.Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert found.stdout.strip() == str(_numbers(opened(_SHUFFLED["without a seed"](), 5)))


def test_what_python_and_resources_give_is_read_through_a_shuffle():
    """A generator, a lookup table and a cache stay what they are."""
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.range(9, dtype=tf.int64), tf.range(9) * 7), -1
    )
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(range(9)), output_signature=tf.TensorSpec([], tf.int64)
    )
    dataset = dataset.map(table.lookup).cache().shuffle(9)
    for _ in range(2):
        assert sorted(_numbers(opened(dataset, 1))) == [7 * i for i in range(9)]


def _drawing():
    return tf.data.Dataset.range(8).map(lambda _: tf.random.uniform([])).batch(2)


_PLAIN = tf.data.Dataset.range(10)


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (lambda: _PLAIN.batch(4), Facts(4, 2, ())),
        (lambda: _PLAIN.batch(4, drop_remainder=True).prefetch(1), Facts(4, 2, ())),
        (lambda: _PLAIN.batch(5).map(lambda i: i, num_parallel_calls=2), Facts(5, 2, ())),
        (lambda: _PLAIN.batch(4, num_parallel_calls=2).cache(), Facts(4, 2, ())),
        (lambda: _PLAIN.repeat().batch(4), Facts(4, None, ())),
        (lambda: _PLAIN.filter(lambda i: i > 3).batch(4), Facts(4, None, ())),
        (lambda: _PLAIN.batch(4).repeat(2), Facts(None, None, ())),
        (lambda: _PLAIN.batch(5, drop_remainder=True).repeat(3), Facts(5, 6, ())),
        (lambda: _PLAIN.batch(4).skip(0), Facts(4, 2, ())),
        (lambda: _PLAIN.batch(4).skip(1), Facts(None, None, ())),
        (lambda: _PLAIN, Facts(None, None, ())),
        (_drawing, Facts(2, 4, ("RandomUniform",))),
        (
            lambda: _PLAIN.map(lambda i: tf.range(i)).padded_batch(3, drop_remainder=True),
            Facts(3, 3, ()),
        ),
    ],
)
def test_facts_are_those_of_the_elements(dataset, expected):
    """Batch size and full batches where they are certain, and hidden random numbers."""
    assert facts(dataset()) == expected
