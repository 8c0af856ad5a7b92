"""Consecutive global batches from a source on the host, stacked for a call."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from loop.feeds.errors import FeedError
from loop.feeds.feed import Batch, Chunk
from loop.feeds.layout import Layout
from loop.feeds.nest import Structure, named_leaves, rebuilt

_log = logging.getLogger(__name__)

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
      seek: step -> an iterator of the batches from that step on, nests of arrays
        [batch_size, ...]. A smaller one at the end is left out, and it is said.
      owned: whether the source never writes again to an array that it gave. Else each is copied:
        an iterator may fill one buffer again and again.

    Attributes:
      position: the step whose batch is read next; None before the first and after a failure.
      structure: of a batch; None before the first.
    """

    def __init__(
        self,
        owner: str,
        batch_size: int,
        seek: Callable[[int], Iterator[Any]],
        *,
        owned: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"{owner}: batch_size must be at least 1, got {batch_size}")
        self.position: int | None = None
        self.structure: Structure | None = None
        self._owner = owner
        self._batch_size = batch_size
        self._seek = seek
        self._owned = owned
        self._source: Iterator[Any] = iter(())
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

    def unstacked(self, chunk: Mapping[str, tf.Tensor], row: tf.Tensor) -> Batch:
        """Row `row` of a chunk as the batch it was; traced."""
        return unstacked(chunk, row, self.structure)

    def checked(self, source: Iterable[Any]) -> Iterator[HostBatch]:
        """The batches of an evaluation's source, the last of them perhaps smaller."""
        for step, batch in enumerate(source):
            yield self._checked(batch, step, partial=True)

    def _batches(self, first_step: int, count: int) -> list[HostBatch]:
        """The global batches before the end.

        Those from `first_step` on that were read before are given again: to the other replicas, and
        to the first calls after a measurement.
        """
        start, held = self._held
        held = held[first_step - start :] if start <= first_step <= start + len(held) else []
        if len(held) >= count:
            self._held = first_step, held
            return held[:count]
        self._raise_failure_at(first_step)
        if self.position != first_step + len(held):
            held = []
            self._source = full_batches(self._seek(first_step), self._batch_size, self._owner)
        self.position = None
        self._held = (0, [])
        read = [*held]
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
        what = f"{self._owner}: the batch of step {step}"
        structure, arrays = as_arrays(batch, what, copied=not self._owned)
        for name, array in arrays.items():
            fits = array.ndim > 0 and (
                1 <= len(array) <= self._batch_size if partial else len(array) == self._batch_size
            )
            if not fits:
                raise FeedError(
                    f"{self._owner}: {name!r} of step {step} has shape {array.shape}, expected "
                    f"batch_size={self._batch_size} examples; {_mend(array, self._batch_size)}"
                )
        spec = {name: (array.dtype, array.shape[1:]) for name, array in arrays.items()}
        if self._spec is None:
            self._spec, self.structure = spec, structure
        if spec != self._spec:
            raise FeedError(
                f"{self._owner}: the batch of step {step} differs from the first: "
                f"{_difference(self._spec, spec)}; every batch must have the same arrays"
            )
        return arrays


def _mend(array: Array, batch_size: int) -> str:
    if array.ndim == 0:
        return "batch the examples, with drop_remainder=True"
    if len(array) < batch_size:
        return "batch with drop_remainder=True, after repeat()"
    return "give the feed the size of the source's batches"


def full_batches(source: Iterator[Any], batch_size: int, owner: str) -> Iterator[Any]:
    """The batches, without a smaller one at the end; a line tells that it is left out."""
    for batch in source:
        size = _examples(batch)
        if size is None or size >= batch_size:
            yield batch
            continue
        following = next(source, None)
        if following is None:
            _log.warning(
                "%s: the last batch has %d of %d examples and is left out, as it is in every "
                "epoch; repeat() before batch() to train on all",
                owner,
                size,
                batch_size,
            )
            return
        yield batch
        yield following


def _examples(batch: Any) -> int | None:
    """How many examples a batch has; None if its parts do not tell, or differ."""
    shapes = [getattr(leaf, "shape", None) for leaf in tf.nest.flatten(batch)]
    sizes = {shape[0] if shape else None for shape in shapes}
    return sizes.pop() if len(sizes) == 1 else None


def as_arrays(batch: Any, what: str, *, copied: bool = False) -> tuple[Structure, HostBatch]:
    """A batch's structure, and its leaves as arrays of numbers or strings on the host.

    Args:
      batch: a nest, see `loop.feeds.nest`.
      what: it is, for error messages.
      copied: never give an array that shares its memory with the batch.

    Raises:
      FeedError: on anything else.
    """
    try:
        structure, leaves = named_leaves(batch)
    except ValueError as error:
        raise FeedError(f"{what}: {error}") from None
    if not leaves:
        raise FeedError(f"{what}: expected at least one array, found none")
    return structure, {
        name: as_array(leaf, f"{what}: {name!r}", copied=copied) for name, leaf in leaves.items()
    }


def as_array(value: Any, what: str, *, copied: bool = False) -> Array:
    """A leaf as an array of numbers, or of bytes (dtype object) where it holds strings.

    Raises:
      FeedError: on anything else.
    """
    if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
        raise FeedError(
            f"{what} expected to be an array, found {type(value).__name__}; make it dense with "
            "one length for all batches, as in tensor.to_tensor(shape=[None, LENGTH])"
        )
    try:
        array = np.array(value) if copied else np.asarray(value)
    except ValueError as error:
        raise FeedError(
            f"{what} expected to be an array, found a {type(value).__name__} whose parts differ in "
            f"shape ({error}); pad them to one length"
        ) from None
    if array.dtype.kind in "SU":
        array = array.astype(object)
    if array.dtype.kind == "O":
        flat = [text.encode() if isinstance(text, str) else text for text in array.reshape(-1)]
        other = {type(text).__name__ for text in flat if not isinstance(text, bytes)}
        if other:
            raise FeedError(
                f"{what} expected to hold numbers or strings, found {', '.join(sorted(other))}; "
                "make it an array of one dtype"
            )
        strings = np.empty(array.shape, object)
        strings.reshape(-1)[:] = flat
        array = strings
    return array


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
        prefix + name: _empty((capacity, len(positions), *shape), dtype)
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


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    # Zeros take memory only where something is written.
    return np.full(shape, b"", dtype) if dtype.kind == "O" else np.zeros(shape, dtype)


def unstacked(
    chunk: Mapping[str, tf.Tensor], row: tf.Tensor, structure: Structure | None = None
) -> Batch:
    """Row `row` of a stacked chunk as a batch, its partners' under "partner"; traced.

    Args:
      chunk: from `stacked`.
      row: int32 scalar.
      structure: of the batch; None for a dict of its arrays.
    """
    batch, partner = (
        {
            name.removeprefix(prefix): array[row]
            for name, array in chunk.items()
            if name.startswith(prefix)
        }
        for prefix in (_PREFIX, _PARTNER)
    )
    if structure is not None:
        batch = rebuilt(structure, batch)
        partner = rebuilt(structure, partner) if partner else partner
    return {**batch, "partner": partner} if partner else batch


def _difference(expected: Spec, found: Spec) -> str:
    def shown(spec: Spec, name: str) -> str:
        if name not in spec:
            return "absent"
        dtype, shape = spec[name]
        return f"{'string' if dtype.kind == 'O' else dtype.name}{list(shape)}"

    return "; ".join(
        f"{name!r} expected {shown(expected, name)}, found {shown(found, name)}"
        for name in {**expected, **found}
        if shown(expected, name) != shown(found, name)
    )
