"""The counter: int64, one, exact where float32 is not."""

import pytest
import tensorflow as tf

import loop


def test_starts_where_told_and_says_so():
    """The counter holds its start as an int64 variable and reads as a Python int."""
    step = loop.GlobalStep(41)
    assert step.variable.dtype == tf.int64
    assert not step.variable.trainable
    assert int(step) == 41
    assert repr(step) == "GlobalStep(41)"
    assert int(loop.GlobalStep()) == 0


@pytest.mark.parametrize("start", [2**24, 2**31 - 1, 2**53, 2**62])
def test_tells_neighbouring_steps_apart_however_far(start):
    """A step far past float32's and int32's range still differs from the next."""
    step = loop.GlobalStep(start)
    step.advance(1)
    assert int(step) == start + 1


def test_traced_reads_keep_their_place_between_advances():
    """In a compiled loop a read before an advance keeps the old number and one after it the new."""
    step = loop.GlobalStep(5)

    @tf.function(autograph=False)
    def many(count):
        def body(row, before, after):
            old = step.read()
            step.advance(1)
            return row + 1, before + old, after + step.read()

        zero = tf.constant(0, tf.int64)
        return tf.while_loop(lambda row, *_: row < count, body, (0, zero, zero))[1:]

    before, after = many(tf.constant(4))
    assert (int(before), int(after), int(step)) == (5 + 6 + 7 + 8, 6 + 7 + 8 + 9, 9)


def test_advances_by_zero_for_a_step_that_does_not_count():
    """An advance by an int64 tensor of 0 leaves the counter as it is."""
    step = loop.GlobalStep(3)
    step.advance(tf.cast(tf.constant(False), tf.int64))
    assert int(step) == 3


def test_refuses_a_negative_start():
    """A run cannot have finished fewer than no steps."""
    with pytest.raises(ValueError, match="start must be at least 0, got -1"):
        loop.GlobalStep(-1)
