"""An iterator with a state, against the run that is never cut."""

import json

import numpy as np
import pytest

from loop import checkpoint
from loop.feeds import FeedError, HasState, ResumableIterator, layout
from loop.feeds.position import decoded, encoded
from tests.loop import steps
from tests.loop.feeds import feed_runs


class Drawn:
    """Draws every batch from a generator whose whole state decides what comes next."""

    def __init__(self, end=None):
        self._random = np.random.default_rng(11)
        self._data = feed_runs.data()
        self._count = 0
        self._end = end
        self.sets = 0

    def __next__(self):
        if self._count == self._end:
            raise StopIteration
        self._count += 1
        rows = self._random.integers(0, 37, feed_runs.BATCH)
        return {name: array[rows] for name, array in self._data.items()}

    def get_state(self):
        """Nested, with bytes, a tuple and a number of NumPy in it."""
        state = self._random.bit_generator.state
        return {"random": state, "mark": (b"\x00\xff", np.int64(self._count), None)}

    def set_state(self, state):
        """Takes what `get_state` gave, types and all."""
        self.sets += 1
        self._random.bit_generator.state = state["random"]
        assert isinstance(state["mark"], tuple)
        mark, self._count, _ = state["mark"]
        assert mark == b"\x00\xff"


def _feed(**options):
    return ResumableIterator(Drawn(**options), batch_size=feed_runs.BATCH, seed=5)


def _labels(feed, first, count):
    return feed.chunk(first, count, count, layout(feed_runs.BATCH))["batch/y"]


def _expected(count):
    drawn = Drawn()
    return np.stack([next(drawn)["y"] for _ in range(count)])


def test_a_cut_run_takes_up_where_the_iterator_was(tmp_path):
    """Checkpoint and resume at step 7, when step 8 was read long ago, and a stop: bit for bit."""
    expected = feed_runs.trained(_feed())
    assert steps.same(feed_runs.cut(_feed, tmp_path / "cut"), expected)
    assert steps.same(feed_runs.stopped(_feed()), expected)


def test_the_checkpoint_holds_the_state_of_its_own_step(tmp_path):
    """As JSON in the manifest: the state after 7 batches, not after those read ahead."""
    feed_runs.trained(_feed(), 7, directory=tmp_path)
    feed_runs.trained(_feed(), 9, directory=tmp_path)
    for step in (7, 9):
        (directory,) = tmp_path.glob(f"checkpoint-*{step}")
        found = checkpoint.read_manifest(directory).metadata["feed"]
        drawn = Drawn()
        for _ in range(step):
            next(drawn)
        assert found == encoded(drawn.get_state())


def test_a_checkpoint_without_a_state_is_read_up_to(tmp_path, caplog):
    """From a run with another feed: the first batches are read and left, and it is said."""
    feed_runs.trained(feed_runs.arrays_feed(), 7, directory=tmp_path)
    read = []
    feed = _feed()
    chunk = feed.chunk
    feed.chunk = lambda first, *rest: read.append((first, chunk(first, *rest))) or read[-1][1]
    feed_runs.trained(feed, 8, directory=tmp_path)
    assert "holds no state of the feed, which reads forward from step 0" in caplog.text
    label = next(found["batch/y"][0] for first, found in read if first == 7)
    assert np.array_equal(label, _expected(8)[7])
    caplog.clear()
    feed_runs.trained(feed_runs.arrays_feed(), 9, directory=tmp_path)
    assert "had a state of its own, which this feed has not" in caplog.text


def test_chunks_in_order_never_move_the_iterator():
    """Reading on costs nothing; only a step out of order sets the state."""
    feed = _feed()
    iterator = feed._iterator
    expected = _expected(20)
    for first, count in ((0, 3), (3, 4), (7, 0), (7, 2)):
        assert np.array_equal(_labels(feed, first, count), expected[first : first + count])
    assert iterator.sets == 1
    for first, count in ((3, 2), (9, 1), (8, 2), (7, 1), (19, 1)):
        assert np.array_equal(_labels(feed, first, count), expected[first : first + count])


def test_the_states_of_a_long_run_are_not_kept():
    """Those of the latest calls are; an older step is none of them, nor one within a call."""
    feed = _feed()
    assert isinstance(feed, HasState)
    for step in range(0, 60, 2):
        _labels(feed, step, 2)
        assert feed.state_at(step) is not None
        assert feed.state_at(step + 2) is not None
        assert feed.state_at(step + 1) is None
    assert feed.state_at(10) is None
    with pytest.raises(FeedError, match="expected to know a state at or before step 10, found"):
        _labels(feed, 10, 1)
    state = json.loads(json.dumps(feed.state_at(58)))
    resumed = _feed()
    resumed.restore(58, state)
    assert np.array_equal(_labels(resumed, 58, 2), _labels(feed, 58, 2))


def test_an_iterator_that_runs_dry_is_one_line():
    """With the step; what it holds can still be read."""
    feed = _feed(end=5)
    with pytest.raises(FeedError, match="ResumableIterator: ran dry at step 5: expected a batch"):
        _labels(feed, 3, 4)
    assert np.array_equal(_labels(feed, 0, 5), _expected(5))


def test_states_go_through_json_unchanged():
    """Bytes, tuples, numbers of NumPy, keys that look like tags; and nothing is pickled."""
    state = {
        "bytes": b"\x00a",
        "tuple": (1, [2.5, (None, True)]),
        "dict": {"tuple": "x", "": {}},
        "big": 2**100,
        "numpy": np.float32(0.1),
        "empty": b"",
    }
    back = decoded(json.loads(json.dumps(encoded(state))))
    assert back == {**state, "numpy": float(np.float32(0.1))}
    assert type(back["tuple"]) is tuple
    for bad in (object(), {1: 2}, {3}):
        with pytest.raises(TypeError, match="expected dicts, lists, tuples, bytes"):
            encoded(bad)


def test_a_buffer_that_the_iterator_fills_again_is_copied():
    """The batches of a call are those of their steps, not all of them the last."""

    class Refilled(Drawn):
        buffer = np.zeros([feed_runs.BATCH], np.float32)

        def __next__(self):
            self.buffer[:] = super().__next__()["y"]
            return {"y": self.buffer}

    feed = ResumableIterator(Refilled(), batch_size=feed_runs.BATCH)
    assert np.array_equal(_labels(feed, 0, 4), _expected(4))


def test_an_iterator_without_a_state_is_refused():
    """A generator, or a data set's iterator, cannot be put back."""
    with pytest.raises(
        TypeError, match=r"list_iterator expected to have .* found no get_state, set"
    ):
        ResumableIterator(iter([]), batch_size=8)
    empty = Drawn()
    empty._data = {}
    feed = ResumableIterator(empty, batch_size=8)
    with pytest.raises(FeedError, match="expected at least one array, found none"):
        feed.chunk(0, 1, 1, layout(8))
