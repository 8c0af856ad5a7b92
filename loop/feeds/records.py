"""Batches from TFRecord shards in a shuffled order that can start at any place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from loop.feeds import facts
from loop.feeds.arrays import Transform
from loop.feeds.errors import FeedError
from loop.feeds.evaluating import padded_chunks
from loop.feeds.feed import Batch, Chunk
from loop.feeds.layout import Layout
from loop.feeds.nest import Structure
from loop.feeds.order import Order
from loop.feeds.record_files import RecordFiles
from loop.feeds.stream import HostBatch, Spec, as_arrays, stacked, unstacked

Parse = Callable[[tf.Tensor], Any]

_PARSED_BYTES = 2**22
"""About as much is read and parsed at a time: a call of `parse` costs more than small records."""

_PARSE_ERRORS = (tf.errors.OpError, UnicodeDecodeError)


class Records:
    """Batches from TFRecord files of any size, in constant memory.

    The order is `Arrays`' own: batch *s* holds the places s * batch_size ... of the endless
    sequence of epochs, each epoch a permutation of all records. There is no shuffle buffer: each
    record is read at its offset, so a resume anywhere costs nothing and is exact, and the shuffle
    is over everything. The next call's records are read and parsed while a call runs; a replica
    reads only its own places.

        def parse(serialized):
            features = tf.io.parse_example(serialized, {"image": ..., "label": ...})
            return {"image": tf.io.decode_raw(features["image"], tf.uint8), ...}

    Args:
      paths: the files, uncompressed; their order counts.
      parse: serialized examples, string [P] -> nest of tensors [P, ...]; TensorFlow operations,
        traced once and run on the host. Random augmentation belongs in `transform`.
      batch_size: examples in the global batch, at most the number of records.
      seed: of the order and of the run's random numbers.
      shuffle: False for the order of storage.
      transform: batch -> batch, traced into the step: scaling, augmentation.
      partners: also read, under "partner", the batch that `Arrays` gathers there, of which mixup
        takes its partners; a record that is in both is read once.
      threads: reads in flight at a time; more than 1 helps where a read waits for disk or network.

    Attributes:
      files: the records' files and offsets.
      size: number of records.

    Raises:
      ValueError: where batch_size does not fit the records.
      FeedError: when made, on an empty, compressed or missing file; when a batch is asked for,
        where `parse` fails or does not return one value an example.
      DamagedRecordError: where a checksum fails; names file and offset.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        parse: Parse,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        transform: Transform | None = None,
        partners: bool = False,
        threads: int = 1,
    ) -> None:
        self.files = RecordFiles(paths, threads=threads)
        self.size = self.files.size
        if not 1 <= batch_size <= self.size:
            raise ValueError(
                f"Records: batch_size must be from 1 to the {self.size} records, got {batch_size}"
            )
        self.batch_size = batch_size
        self.seed = seed
        self.order = Order(self.size, seed, shuffle=shuffle)
        self.transform = transform
        self.partners = partners
        self._parse: Any = tf.function(
            parse,
            input_signature=[tf.TensorSpec([None], tf.string)],
            autograph=False,
        )
        self._spec: Spec | None = None
        self._structure: Structure | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every example was seen; the last may be of the next epoch too."""
        return self.steps_in(1)

    def steps_in(self, epochs: int) -> int:
        """Steps until every example was seen so many times; the last may be of the next too."""
        return -(-epochs * self.size // self.batch_size)

    def resident(self) -> Batch:
        """Nothing stays on the device."""
        return {}

    def chunk(self, first_step: int, count: int, capacity: int, layout: Layout) -> Chunk:
        """The replica's records of `count` steps, parsed: name -> [capacity, P, ...]."""
        wanted = layout.positions
        if self.partners:
            wanted = np.concatenate([wanted, self.batch_size - 1 - wanted])
        # Rows hold each of the replica's own places once, and the layout says where in the row.
        read, local = np.unique(wanted, return_inverse=True)
        width = len(layout.positions)
        places = np.arange(first_step, first_step + count)[:, None] * self.batch_size
        records = self.order.indices(places + read)
        if self._spec is None:
            self._parsed(np.zeros_like(layout.positions, np.int64), "the first record")
        assert self._spec is not None
        return stacked(
            self._rows(records, first_step),
            self._spec,
            capacity,
            Layout(local[:width].astype(np.int32), layout.mask),
            local[width:] if self.partners else None,
        )

    def _rows(self, records: npt.NDArray[np.int64], first_step: int) -> Iterator[HostBatch]:
        """The arrays of each row of records; small rows are read and parsed several at a time."""
        width = records.shape[1]
        together = max(1, int(_PARSED_BYTES / (width * self.files.mean_bytes)))
        for first in range(0, len(records), together):
            group = records[first : first + together]
            step = first_step + first
            last = step + len(group) - 1
            what = f"step {step}" if step == last else f"steps {step} to {last}"
            parsed = self._parsed(group.reshape(-1), what)
            for start in range(0, group.size, width):
                yield {name: array[start : start + width] for name, array in parsed.items()}

    def _parsed(self, records: npt.NDArray[np.int64], what: str) -> HostBatch:
        """These records' arrays [len(records), ...]."""
        with tf.device("/cpu:0"):
            serialized = tf.constant(self.files.read(records), tf.string)
            try:
                parsed = self._parse(serialized)
            except _PARSE_ERRORS as error:
                raise self._unparsed(records, serialized, what, error) from error
        self._structure, arrays = as_arrays(parsed, f"Records: what parse returned for {what}")
        if self.partners and not isinstance(self._structure, Mapping):
            raise FeedError(
                "Records: partners=True expected parse to return a dict, in which the partners are "
                f"under 'partner', found {type(parsed).__name__}; return a dict"
            )
        for name, array in arrays.items():
            if array.shape[:1] != records.shape:
                raise FeedError(
                    f"Records: parse returned {name!r} of shape {array.shape} for {what}, expected "
                    f"one value for each of {len(records)} records"
                )
        spec = {name: (array.dtype, array.shape[1:]) for name, array in arrays.items()}
        if self._spec is None:
            self._spec = spec
        if spec != self._spec:
            raise FeedError(
                f"Records: parse returned {spec} for {what}, expected {self._spec} as before; "
                "give every example one shape"
            )
        return arrays

    def _unparsed(
        self, records: npt.NDArray[np.int64], serialized: tf.Tensor, what: str, error: Exception
    ) -> FeedError:
        """The error that names the record which cannot be parsed, found one by one."""
        found = int(records[0])
        for index, record in enumerate(records.tolist()):
            try:
                self._parse(serialized[index : index + 1])
            except _PARSE_ERRORS as of_record:
                found, error = record, of_record
                break
        # TensorFlow quotes the record, whose bytes may be no text.
        reason = str(getattr(error, "message", "not parseable")).splitlines()[0]
        path, offset = self.files.locate(found)
        return FeedError(
            f"Records: parse failed on {what}, at the record at offset {offset} of {path}: {reason}"
        )

    def batch(self, resident: Mapping[str, tf.Tensor], chunk: Batch, row: tf.Tensor) -> Batch:
        """One row of the chunk, transformed."""
        del resident
        batch = unstacked(chunk, row, self._structure)
        return self.transform(batch) if self.transform else batch

    def example_ids(self, step: int) -> npt.NDArray[np.int64]:
        """The numbers of the records of batch `step`, by position; see `files.locate`."""
        return self.order.indices(step * self.batch_size + np.arange(self.batch_size))

    def facts(self) -> dict[str, Any]:
        """Those of `Arrays` of the same examples, and the files'; parses at most 64 records."""
        samples: dict[str, list[Any]] = {}
        for place in facts.sampled_examples(self.size).tolist():
            for name, array in self._parsed(np.array([place]), f"record {place}").items():
                samples.setdefault(name, []).append(facts.sampled_elements(array[0]))
        assert self._spec is not None
        return {
            "examples": self.size,
            "shuffle": self.order.shuffle,
            "partners": self.partners,
            "features": {n: facts.feature(*spec) for n, spec in self._spec.items()},
            "fingerprint": {name: facts.fingerprint(read) for name, read in samples.items()},
            "files": self.files.facts(),
        }

    def evaluation_chunks(
        self, layouts: Sequence[Layout], capacity: int
    ) -> Iterator[tuple[Chunk, ...]]:
        """Every record once, in the order of storage."""
        starts = range(0, self.size, self.batch_size)
        batches = (
            self._parsed(
                np.arange(start, min(start + self.batch_size, self.size)), f"record {start} on"
            )
            for start in starts
        )
        return padded_chunks(batches, layouts, capacity)
