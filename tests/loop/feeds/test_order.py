"""The order of examples, against a pure-Python Feistel network and as permutations."""

import math
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loop.feeds import Order

_MASK = 2**64 - 1


def _mix(value):
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _reference(size, seed, place):
    """Black and Rogaway's generalized Feistel cipher with cycle walking, in Python's integers."""
    epoch, value = divmod(place, size)
    rows = math.isqrt(size - 1) + 1
    columns = -(-size // rows)
    key = _mix((seed + 0x9E3779B97F4A7C15) & _MASK)
    while True:
        left, right = divmod(value, columns)
        for number in range(8):
            round_key = _mix(_mix(key ^ epoch) ^ ((number + 1) << 48))
            modulus = columns if number % 2 else rows
            draw = ((_mix((round_key + right) & _MASK) >> 32) * modulus) >> 32
            left, right = right, (left + draw) % modulus
        value = left * columns + right
        if value < size:
            return value


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", [0, 7, -1, 2**63 - 1, -(2**63), 2**64 - 1])
def test_equals_the_written_out_cipher(seed):
    """Every place of the first epochs and of far ones is the reference's, for any 64-bit seed."""
    for size in (1, 2, 3, 10, 97, 1437, 2**40 + 3):
        places = [0, 1, size - 1, size, 2 * size + 1, 10**6 * size + 5]
        found = Order(size, seed).indices(places)
        assert found.tolist() == [_reference(size, seed, place) for place in places]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(0, 2**63), st.integers(0, 10**9))
def test_each_epoch_holds_each_example_once(size, seed, epoch):
    """An epoch is a permutation, whatever size and seed."""
    found = Order(size, seed).indices(epoch * size + np.arange(size))
    assert np.array_equal(np.sort(found), np.arange(size))


def test_a_place_does_not_depend_on_what_else_is_asked():
    """One place alone, in any shape, is what it is within the whole sequence: resume needs that."""
    order = Order(53, 3)
    whole = order.indices(np.arange(530))
    for shape in [(), (1,), (0,), (2, 5), (3, 1, 4)]:
        places = np.random.default_rng(1).integers(0, 530, shape)
        found = order.indices(places)
        assert found.dtype == np.int64
        assert found.shape == shape
        assert np.array_equal(found, whole[places])


def test_epochs_and_seeds_differ_and_look_random():
    """Over 4,000 epochs every example comes first about equally often, and neighbours part."""
    size, epochs = 20, 4000
    found = Order(size, 11).indices(np.arange(size * epochs)).reshape(epochs, size)
    for column in (0, 7, 19):
        counts = np.bincount(found[:, column], minlength=size)
        chi_square = ((counts - epochs / size) ** 2 / (epochs / size)).sum()
        assert chi_square < 43.8  # 19 degrees of freedom, p = 0.001
    follows = (found[:, 1:] - found[:, :-1] == 1).mean()
    assert abs(follows - 1 / size) < 0.005
    assert len(np.unique(found, axis=0)) == epochs
    assert not np.array_equal(found[0], Order(size, 12).indices(np.arange(size)))


def test_unshuffled_is_the_order_of_storage():
    """Without shuffling each epoch counts through the examples."""
    assert Order(3, shuffle=False).indices([0, 1, 2, 3, 7]).tolist() == [0, 1, 2, 0, 1]
    assert Order(3, shuffle=False).indices(4).shape == ()


@pytest.mark.parametrize("size", [0, -1, 2**62 + 1])
def test_refuses_a_size_out_of_range(size):
    """An empty set has no order, and places past int64 cannot be told apart."""
    with pytest.raises(ValueError, match=f"size must be from 1 to 2\\*\\*62, got {size}"):
        Order(size)


def test_threads_that_ask_at_once_get_what_one_alone_gets():
    """A call's input is prepared in a thread while the run asks which examples a step held."""
    size, threads, calls = 23, 8, 400
    truth = Order(size, 5).indices(np.arange(size * 50))
    order = Order(size, 5)

    def wrong(number):
        starts = np.random.default_rng(number).integers(0, size * 49, calls)
        places = [start + np.arange(size - 1) for start in starts]
        return sum(not np.array_equal(order.indices(asked), truth[asked]) for asked in places)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(threads) as pool:
            assert list(pool.map(wrong, range(threads))) == [0] * threads
    finally:
        sys.setswitchinterval(interval)
