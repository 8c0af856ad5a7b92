"""Input that does not come: said in the log, after how long, and the run goes on when it comes."""

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

import loop
from loop.run import stall
from tests.loop import steps


def test_a_late_batch_is_said_and_awaited(caplog):
    """A warning after the limit, another when the wait has doubled, and one when it has come."""
    future = Future()
    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.WARNING, logger="loop"):
        waiting = pool.submit(stall.wait_for_input, future, step=41, seconds=0.02)
        while len(caplog.records) < 3:
            assert not waiting.done()
        future.set_result("batch")
        assert waiting.result(10) == "batch"
    lines = [record.getMessage() for record in caplog.records]
    assert all("the batch of step 41 has not come from the feed yet" in line for line in lines[:3])
    assert lines[-1].startswith("input came after ")
    waits = [float(line.split()[3]) for line in lines[:3]]
    assert waits[0] >= 0.02
    assert waits[1] >= 0.99 * 2 * waits[0]
    assert waits[2] >= 0.99 * 2 * waits[1]


def test_input_in_time_says_nothing(caplog):
    """What is there, or comes within the limit, or fails, is passed on without a word."""
    ready = Future()
    ready.set_result(7)
    assert stall.wait_for_input(ready, step=0, seconds=1e-9) == 7
    failed = Future()
    failed.set_exception(TimeoutError("of the feed itself"))
    with pytest.raises(TimeoutError, match="of the feed itself"):
        stall.wait_for_input(failed, step=0, seconds=1e-9)
    assert caplog.records == []


def test_the_clock_decides(caplog):
    """With a clock that leaps, one look is enough for the warning, and its text has the time."""
    future = Future()
    times = iter([0.0, 100.0, 130.0, 140.0, 150.0])

    def clock():
        now = next(times)
        if now == 140.0:
            future.set_result(None)
        return now

    stall.wait_for_input(future, step=3, seconds=60.0, clock=clock)
    first, last = (record.getMessage() for record in caplog.records)
    assert "no input for 130 s: the batch of step 3" in first
    assert last == "input came after 150 s; the run goes on"


class SlowFeed(loop.feeds.Arrays):
    """Arrays whose second call's input comes only when it is let."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.let = threading.Event()

    def chunk(self, first_step, *arguments):
        """Waits, but for the first step's."""
        if first_step > 0:
            self.let.wait(30)
        return super().chunk(first_step, *arguments)


def test_a_run_waits_for_its_feed_and_says_so(caplog):
    """A trainer with a slow feed warns and then ends with the same state as with a fast one."""
    states = []
    for feed_class in (SlowFeed, loop.feeds.Arrays):
        net = steps.Net()
        optimizer = loop.optimizers.SGD(0.01)
        step = loop.GradientStep(steps.squared_errors(net), net.trainable_variables, optimizer)
        feed = feed_class(steps.arrays(16), batch_size=4, seed=1)
        trainer = loop.Trainer(
            step=step,
            feed=feed,
            state={"net": net, "optimizer": optimizer},
            compile="eager",
            stall_seconds=0.05,
        )
        if feed_class is SlowFeed:

            class Release(logging.Handler):
                """Lets the input come once its absence was said."""

                def __init__(self, feed):
                    super().__init__()
                    self.feed = feed

                def emit(self, _):
                    """Called with the warning."""
                    self.feed.let.set()

            handler = Release(feed)
            logging.getLogger("loop.run.stall").addHandler(handler)
            trainer.train(until=5)
            logging.getLogger("loop.run.stall").removeHandler(handler)
            assert "no input for" in caplog.records[0].getMessage()
        else:
            trainer.train(until=5)
        states.append(steps.values(trainer.state))
    assert steps.same(*states)


def test_limits_are_checked():
    """A limit of zero would warn at every call."""
    with pytest.raises(ValueError, match="stall_seconds must be above 0, got 0"):
        loop.Trainer(
            step=lambda batch: {"loss": tf.reduce_sum(batch["x"])},
            feed=loop.feeds.Arrays({"x": np.ones(4, np.float32)}, batch_size=2),
            state={},
            compile="eager",
            stall_seconds=0,
        )
