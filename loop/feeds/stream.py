"""Consecutive global batches from a source on the host, stacked for a call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from loop.feeds.errors import FeedError
from loop.feeds.feed import Batch, Chunk
from loop.feeds.layout import Layout

Array = npt.NDArray[Any]
HostBatch = dict[str, Array]
Spec = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]

_PREFIX = "batch/"
"""The prefix of a batch's arrays in a chunk, so that none of them is mistaken for its mask."""

_PARTNER = "partner/"
"""The prefix of its partners' arrays."""


class BatchStream:
    """Reads batches in the order of steps, and goes to another step only where it must.

    Args:
      owner: who asks, for error messages.
      batch_size: examples in the global batch.
      seek: step -> an iterator of the batches from that step on, dicts of arrays [batch_size, ...].

    Attributes:
      position: the step whose batch is read next; None before the first and after a failure.
    """

    def __init__(
        self,
        owner: str,
        batch_size: int,
        seek: Callable[[int], Iterator[Mapping[str, Any]]],
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"{owner}: batch_size must be at least 1, got {batch_size}")
        self.position: int | None = None
        self._owner = owner
        self._batch_size = batch_size
        self._seek = seek
        self._source: Iterator[Mapping[str, Any]] = iter(())
        self._spec: Spec | None = None
        self._failure: tuple[int, Exception] | None = None
        self._held: tuple[int, list[HostBatch]] = (0, [])
        # An action may look at a batch while the next call's are being read.
        self._lock = threading.Lock()

    def reset(self) -> None:
        """Forgets the place in the source, which was changed from outside."""
        with self._lock:
            self.position = None
            self._held = (0, [])
            self._failure = None

    def available(self, first_step: int, count: int) -> int:
        """How many of the batches of `count` steps there are before the source ends; reads them.

        Raises:
          FeedError: if there is none at step 0, or a batch is not like the first.
        """
        with self._lock:
            found = len(self._batches(first_step, count))
        if count and not found and first_step == 0:
            raise FeedError(
                f"{self._owner}: expected at least one batch of {self._batch_size} examples, found "
                "none; look at the paths and filters that it comes from"
            )
        return found

    def chunk(self, first_step: int, count: int, capacity: int, layout: Layout) -> Chunk:
        """A replica's part of the batches of `count` steps: name -> [capacity, P, ...].

        Raises:
          FeedError: where the source ends early, or a batch is not like the first.
        """
        with self._lock:
            # Of no steps the shapes are asked for; the batch that tells them is held for later.
            batches = self._batches(first_step, count or int(self._spec is None))[:count]
            if len(batches) < count or self._spec is None:
                self._raise_failure_at(first_step + len(batches))
                raise FeedError(
                    f"{self._owner}: ran dry at step {first_step + len(batches)}: expected a batch "
                    "for every step that is asked for, found the end; repeat() the data set"
                )
            return stacked(batches, self._spec, capacity, layout)

    def batches(self) -> Iterator[HostBatch]:
        """All batches from step 0 to the source's end, the last of them perhaps smaller."""
        for step, batch in enumerate(self._seek(0)):
            yield self._checked(batch, step, partial=True)

    def _batches(self, first_step: int, count: int) -> list[HostBatch]:
        """The global batches before the end; those of the last call again for other replicas."""
        first_held, held = self._held
        if first_held == first_step and len(held) >= count:
            return held[:count]
        known = held if first_held == first_step else []
        self._raise_failure_at(first_step)
        if self.position != first_step + len(known):
            known = []
            self._source = self._seek(first_step)
        self.position = None
        self._held = (0, [])
        read = [*known]
        try:
            while len(read) < count and (batch := self._read(first_step + len(read))) is not None:
                read.append(batch)
        except Exception as error:
            if not read:
                raise
            # The steps before it can be run; who asks for this one gets the error.
            self._failure = first_step + len(read), error
        self.position = first_step + len(read)
        self._held = first_step, read
        return read

    def _raise_failure_at(self, step: int) -> None:
        """Raises what went wrong at a step when it was read ahead; the next call reads it anew."""
        if self._failure is not None and self._failure[0] == step:
            failure = self._failure[1]
            self.position = self._failure = None
            raise failure

    def _read(self, step: int) -> HostBatch | None:
        """The next batch, which is that of `step`; None at the end."""
        try:
            batch = next(self._source)
        except StopIteration:
            return None
        except tf.errors.OpError as error:
            reason = str(error.message).splitlines()[0]
            raise FeedError(f"{self._owner}: the batch of step {step} failed: {reason}") from error
        return self._checked(batch, step)

    def _checked(self, batch: Any, step: int, *, partial: bool = False) -> HostBatch:
        """The batch as arrays, all like the first batch's."""
        arrays = as_arrays(batch, f"{self._owner}: the batch of step {step}")
        for name, array in arrays.items():
            fits = array.ndim > 0 and (
                1 <= len(array) <= self._batch_size if partial else len(array) == self._batch_size
            )
            if not fits:
                raise FeedError(
                    f"{self._owner}: {name!r} of step {step} has shape {array.shape}, expected "
                    f"batch_size={self._batch_size} examples; batch with drop_remainder=True, "
                    "after repeat()"
                )
        spec = {name: (array.dtype, array.shape[1:]) for name, array in arrays.items()}
        if self._spec is None:
            self._spec = spec
        if spec != self._spec:
            raise FeedError(
                f"{self._owner}: the batch of step {step} differs from the first: "
                f"{_difference(self._spec, spec)}; every batch must have the same arrays"
            )
        return arrays


def as_arrays(batch: Any, what: str) -> HostBatch:
    """A batch as a flat dict of numbers on the host.

    Raises:
      FeedError: on anything else.
    """
    if not isinstance(batch, Mapping):
        raise FeedError(
            f"{what}: expected a dict of arrays, found {type(batch).__name__}; map the elements to "
            'dicts, as in dataset.map(lambda x, y: {"image": x, "label": y})'
        )
    arrays = {}
    for name, value in batch.items():
        if isinstance(value, (Mapping, tuple, list, tf.RaggedTensor, tf.SparseTensor)):
            raise FeedError(
                f"{what}: {name!r} expected to be an array, found {type(value).__name__}; flatten "
                "nested elements and make ragged and sparse ones dense"
            )
        arrays[name] = np.asarray(value)
        if arrays[name].dtype.kind in "OSU":
            raise FeedError(
                f"{what}: {name!r} expected to hold numbers, found strings or objects, which a "
                "compiled step cannot take; decode them, or drop them"
            )
    if not arrays:
        raise FeedError(f"{what}: expected at least one array, found none")
    return arrays


def stacked(
    batches: Iterable[HostBatch],
    spec: Spec,
    capacity: int,
    layout: Layout,
    partners: npt.NDArray[Any] | None = None,
) -> Chunk:
    """A replica's places of global batches, stacked, and the mask where slices are padded.

    Args:
      batches: at most `capacity` of them, taken one at a time.
      spec: name -> dtype and shape of an example.
      capacity: rows of the chunk; those after the batches are zeros.
      layout: the replica's places.
      partners: the places of the examples that those are mixed with, or None.
    """
    parts = {_PREFIX: layout.positions}
    if partners is not None:
        parts[_PARTNER] = partners
    chunk: Chunk = {
        prefix + name: np.zeros((capacity, len(positions), *shape), dtype)
        for prefix, positions in parts.items()
        for name, (dtype, shape) in spec.items()
    }
    whole = np.array_equal(layout.positions, np.arange(len(layout.positions)))
    for index, batch in enumerate(batches):
        for prefix, positions in parts.items():
            for name, array in batch.items():
                row = chunk[prefix + name][index]
                if whole and prefix == _PREFIX and len(array) == len(positions):
                    row[...] = array
                else:
                    np.take(array, positions, axis=0, out=row, mode="clip")
    if layout.mask is not None:
        chunk["mask"] = np.broadcast_to(layout.mask, (capacity, len(layout.positions)))
    return chunk


def unstacked(chunk: Mapping[str, tf.Tensor], row: tf.Tensor) -> Batch:
    """Row `row` of a stacked chunk as a batch, its partners' under "partner"; traced."""
    batch, partner = (
        {
            name.removeprefix(prefix): array[row]
            for name, array in chunk.items()
            if name.startswith(prefix)
        }
        for prefix in (_PREFIX, _PARTNER)
    )
    return {**batch, "partner": partner} if partner else batch


def _difference(expected: Spec, found: Spec) -> str:
    def shown(spec: Spec, name: str) -> str:
        if name not in spec:
            return "absent"
        dtype, shape = spec[name]
        return f"{dtype.name}{list(shape)}"

    return "; ".join(
        f"{name!r} expected {shown(expected, name)}, found {shown(found, name)}"
        for name in {**expected, **found}
        if shown(expected, name) != shown(found, name)
    )
