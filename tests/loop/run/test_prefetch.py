"""The calls of a run: which there are, and that input is fetched ahead."""

import contextlib
import threading

import numpy as np
import pytest
import tensorflow as tf

import loop
from loop.actions.meter import Meter
from loop.compiled.compiled_loop import Prepared
from loop.run.prefetch import prefetched_calls


def calls(
    prepare, count=lambda step: min(4, 11 - step), *, meter=None, step=0, until=11, least=int
):
    """Calls of four steps up to step 11, closed at the end of the block."""
    return contextlib.closing(
        prefetched_calls(
            prepare,
            count,
            step=step,
            until=until,
            meter=meter or Meter(),
            stall_seconds=60.0,
            least=least,
        )
    )


def counted(_, count):
    """Input that is the number of its steps."""
    return Prepared(count, count)


def fetching_threads():
    """The threads that fetch."""
    return [t for t in threading.enumerate() if t.name.startswith("prepare the next call")]


def test_the_calls_cover_the_steps_once():
    """Each call begins where the one before it ended, with the input of exactly its steps."""
    with calls(lambda step, count: Prepared(range(step, step + count), count), step=2) as run:
        found = list(run)
    assert [(call.step, call.count) for call in found] == [(2, 4), (6, 4), (10, 1)]
    assert [list(call.prepared.chunk) for call in found] == [[2, 3, 4, 5], [6, 7, 8, 9], [10]]
    with calls(counted, step=11) as run:
        assert list(run) == []


def test_the_next_input_is_fetched_while_a_call_runs():
    """With a call in hand the next one's fetch begins by itself, and no further one."""
    begun = {step: threading.Event() for step in (0, 4, 8, 11)}

    def prepare(step, count):
        begun[step].set()
        return counted(step, count)

    with calls(prepare) as run:
        next(run)
        assert begun[4].wait(10)
        assert not begun[8].is_set()
        next(run)
        assert begun[8].wait(10)


def test_a_length_is_asked_for_when_the_call_ahead_is_about_to_run():
    """What the lengths follow, such as the time of a step, may change between the calls."""
    length = 1
    with calls(counted, lambda step: min(length, 11 - step)) as run:
        found = [next(run).count]
        length = 5
        found += [call.count for call in run]
    assert found == [1, 1, 5, 4]


def test_the_calls_end_where_the_input_does():
    """A short call holds what is left, and none follows it, whatever another worker has left."""
    for left, least in ((6, int), (9, lambda steps: min(steps, 2) if steps < 4 else steps)):
        asked = []

        def prepare(step, count, left=left, asked=asked):
            asked.append(step)
            return counted(step, max(0, min(count, left - step)))

        with calls(prepare, lambda step: min(4, 99 - step), until=99, least=least) as run:
            found = [(call.step, call.count) for call in run]
        assert found == ([(0, 4), (4, 2)] if left == 6 else [(0, 4), (4, 4), (8, 1)])
        assert asked[-1] == left


def test_waiting_is_counted_as_input():
    """The meter's input phase holds what the run waited for a batch, and no other time."""
    times = iter(range(100))
    meter = Meter(clock=lambda: next(times))
    with calls(counted, meter=meter) as run:
        number = len(list(run))
    assert meter.seconds["input"] == number == 3


def test_an_error_of_the_feed_is_raised_and_no_thread_stays():
    """The feed's error comes where its batch is wanted; closing ends the thread."""

    def prepare(step, count):
        if step:
            raise OSError("no file")
        return counted(step, count)

    with calls(prepare) as run:
        assert next(run).count == 4
        assert len(fetching_threads()) == 1
        with pytest.raises(OSError, match="no file"):
            next(run)
    assert fetching_threads() == []


def test_a_trainer_that_stops_with_an_error_leaves_no_thread():
    """Where a step ends the run, the thread has ended although the error is still held."""
    weight = tf.Variable(1.0)

    def step(batch):
        return {"loss": tf.reduce_sum(batch["x"]) * np.nan}

    feed = loop.feeds.Arrays({"x": np.ones(8, np.float32)}, batch_size=4)
    trainer = loop.Trainer(step=step, feed=feed, state={"weight": weight}, compile="graph")
    with pytest.raises(loop.NonFiniteError) as held:
        trainer.train(until=5)
    assert fetching_threads() == []
    assert held.value.step == 0
