"""Batches from an iterator that can save its place and return to it, as grain's can."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import tensorflow as tf

from loop.feeds.arrays import Transform
from loop.feeds.errors import FeedError
from loop.feeds.feed import Batch, Chunk
from loop.feeds.layout import Layout
from loop.feeds.position import decoded, encoded
from loop.feeds.stream import BatchStream

_STATES_KEPT = 8
"""Enough for the call that runs, the next one, and one or two batches read between them."""


class StatefulIterator(Protocol):
    """An iterator of batches with a place, such as grain's `DatasetIterator`."""

    def __next__(self) -> Mapping[str, Any]:
        """The next global batch: a nest of arrays [batch_size, ...]."""

    def get_state(self) -> Any:
        """The place: dicts, lists, tuples, bytes, numbers and strings."""

    def set_state(self, state: Any) -> None:
        """Goes to a place that `get_state` gave."""


class ResumableIterator:
    """Batches from an iterator with `get_state` and `set_state`; its state is in the checkpoint.

    The batches of the next call are read while a call runs, so at a checkpoint the iterator is
    already ahead. Its states at the calls' ends are therefore kept, and a checkpoint, which lies at
    the end of a call, holds the one that belongs to its step.

    Every worker of several makes its own iterator, all of the same global batches.

    Args:
      iterator: at the batch of step 0; from now on only the feed may use it.
      batch_size: examples in the global batch.
      seed: of the run's random numbers; it does not change the iterator's order.
      transform: batch -> batch, traced into the step: scaling, augmentation.

    Raises:
      TypeError: if the iterator lacks one of the three methods.
      ValueError: if batch_size is below 1.
      FeedError: when a batch is asked for, where the iterator has ended (names the step), or a
        batch has another size, shape or dtype.
    """

    def __init__(
        self,
        iterator: StatefulIterator,
        *,
        batch_size: int,
        seed: int = 0,
        transform: Transform | None = None,
    ) -> None:
        missing = [
            name
            for name in ("__next__", "get_state", "set_state")
            if not callable(getattr(iterator, name, None))
        ]
        if missing:
            raise TypeError(
                f"ResumableIterator: {type(iterator).__name__} expected to have __next__, "
                f"get_state and set_state, found no {', '.join(missing)}; use feeds.Dataset for a "
                "tf.data.Dataset"
            )
        self.batch_size = batch_size
        self.seed = seed
        self.transform = transform
        self._iterator = iterator
        self._stream = BatchStream("ResumableIterator", batch_size, self._from)
        self._states: dict[int, Any] = {0: encoded(iterator.get_state())}
        self._lock = threading.Lock()

    def _from(self, step: int) -> Iterator[Mapping[str, Any]]:
        """The batches from a step on, read forward from the last known state before it."""
        before = [known for known in self._states if known <= step]
        if not before:
            raise FeedError(
                f"ResumableIterator: expected to know a state at or before step {step}, found "
                f"those at {sorted(self._states)}; make the feed anew"
            )
        self._iterator.set_state(decoded(self._states[max(before)]))
        return itertools.islice(self._batches(), step - max(before), None)

    def _batches(self) -> Iterator[Mapping[str, Any]]:
        while True:
            try:
                yield next(self._iterator)
            except StopIteration:
                return

    def resident(self) -> Batch:
        """Nothing stays on the device."""
        return {}

    def available(self, first_step: int, count: int) -> int:
        """How many of `count` steps from `first_step` have a batch before the iterator ends."""
        with self._lock:
            found = self._stream.available(first_step, count)
            self._keep_state()
            return found

    def chunk(self, first_step: int, count: int, capacity: int, layout: Layout) -> Chunk:
        """The replica's part of the batches of `count` steps, name -> [capacity, P, ...]."""
        with self._lock:
            chunk = self._stream.chunk(first_step, count, capacity, layout)
            self._keep_state()
            return chunk

    def _keep_state(self) -> None:
        """Keeps the iterator's state under the step that it is at."""
        position = self._stream.position
        if position is not None and position not in self._states:
            kept = list(self._states.items())[1 - _STATES_KEPT :]
            self._states = {**dict(kept), position: encoded(self._iterator.get_state())}

    def batch(self, resident: Mapping[str, tf.Tensor], chunk: Batch, row: tf.Tensor) -> Batch:
        """One row of the chunk, transformed."""
        del resident
        batch = self._stream.unstacked(chunk, row)
        return self.transform(batch) if self.transform else batch

    def example_ids(self, step: int) -> None:
        """An iterator's examples have no ids."""
        del step

    def state_at(self, step: int) -> Any | None:
        """The iterator's state before the batch of `step`, as JSON values; never waits.

        None if `step` is no end of a recent call: a resume then reads forward from the start.
        """
        return self._states.get(step)  # Replaced, never changed, by the thread that reads ahead.

    def restore(self, step: int, state: Any) -> None:
        """Goes on at `step` from what `state_at(step)` gave."""
        with self._lock:
            self._states = {step: state}
            self._stream.reset()
