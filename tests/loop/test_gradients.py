"""Reduction over replicas and the finite check."""

import numpy as np
import pytest
import tensorflow as tf

import loop
from kernels import target
from loop import gradients
from tests.loop import steps


class _Doubling:
    """Stands for a second replica with the same values: the sum is twice each; notes the calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, values):
        self.calls.append([type(value).__name__ + value.dtype.name for value in values])
        return [
            tf.IndexedSlices(
                tf.concat([value.values] * 2, 0),
                tf.concat([value.indices] * 2, 0),
                value.dense_shape,
            )
            if isinstance(value, tf.IndexedSlices)
            else value * 2
            for value in values
        ]


def _mixed():
    slices = tf.IndexedSlices(tf.constant([[1.0, -2.0]]), tf.constant([2]), tf.constant([3, 2]))
    return [tf.constant([1.5]), None, slices, tf.constant(2.5), tf.constant(0.5, tf.float64)]


def test_one_replica_gets_its_values_as_they_are():
    """Without other replicas nothing is computed."""
    given = _mixed()
    with steps.inside(8):
        found = loop.reduce_gradients(given)
    assert all(a is b for a, b in zip(found, given, strict=True))


def test_replicas_are_summed_in_one_collective_of_a_kind():
    """Values of one dtype go together, sparse ones as slices; order and None are kept."""
    doubling = _Doubling()
    with steps.inside(8, reduce=doubling):
        found = loop.reduce_sum(_mixed())
    assert len(doubling.calls) == 3
    assert sum(len(kinds) for kinds in doubling.calls) == 4
    assert all(len(set(kinds)) == 1 for kinds in doubling.calls)
    assert found[0].numpy().tolist() == [3.0]
    assert found[1] is None
    dense = tf.convert_to_tensor(found[2]).numpy()
    assert np.array_equal(dense, [[0, 0], [0, 0], [2, -4]])
    assert (float(found[3]), float(found[4])) == (5.0, 1.0)


def test_outside_a_step_there_is_nothing_to_reduce_over():
    """Called outside a step it says so, and does not guess that there is one replica."""
    with pytest.raises(RuntimeError, match="reduce_sum: called outside a training step"):
        loop.reduce_sum([tf.constant(1.0)])


@pytest.mark.parametrize(("compiler", "device"), [("xla", "cpu"), ("graph", "gpu")])
def test_rows_that_a_variable_lacks_are_found(compiler, device):
    """An id past the table or below it, in any sparse gradient; dense ones and None have none."""
    variables = [tf.Variable(tf.zeros([size, 2])) for size in (3, 5, 4)]

    def found(*ids):
        slices = [tf.IndexedSlices(tf.ones([2, 2]), tf.constant(pair)) for pair in ids]
        with target.tracing_for(compiler, device):
            return gradients.rows_exist([tf.ones([3, 2]), *slices], variables).numpy()

    assert found([4, 0], [3, 3])
    assert not found([4, 0], [3, 4])
    assert not found([5, 0], [3, 3])
    assert not found([-1, 0], [3, 3])
    with target.tracing_for(compiler, device):
        assert gradients.rows_exist([tf.ones([3, 2]), None], variables[:2])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_element_anywhere_is_not_finite(bad):
    """A single NaN or Inf in a dense or sparse gradient is found; None is passed over."""
    good = _mixed()
    assert bool(loop.all_finite(good))
    assert not bool(loop.all_finite([*good, tf.constant([[1.0, bad], [0, 0]])]))
    sparse = tf.IndexedSlices(tf.constant([[bad]]), tf.constant([0]), tf.constant([4, 1]))
    assert not bool(loop.all_finite([sparse, *good]))


def test_no_gradient_at_all_is_finite():
    """Nothing that could be wrong is wrong."""
    assert bool(loop.all_finite([None, None]))
    assert bool(loop.all_finite([]))
