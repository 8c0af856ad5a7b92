"""Batches from any `tf.data.Dataset`, stacked on the host for a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from loop.feeds.arrays import Transform
from loop.feeds.evaluating import padded_chunks
from loop.feeds.feed import Batch, Chunk
from loop.feeds.layout import Layout
from loop.feeds.stream import BatchStream, unstacked

Factory = Callable[[int, int], tf.data.Dataset]
"""`make(seed, start_step)`: the data set of the global batches from that step on."""


class Dataset:
    """Batches from a `tf.data.Dataset` or TFDS.

    The factory is what makes a resume exact: `make(seed, s)` must give the batches that
    `make(seed, 0)` gives after `s` others. `repeated` makes such a factory from a data set of
    single examples; where the source can seek, your own factory resumes faster. Random
    transformations belong in `transform`, or are stateless functions of seed and step.

        def make(seed: int, start_step: int) -> tf.data.Dataset:
            steps = tf.data.Dataset.range(start_step, 2**62)
            return steps.map(lambda step: read_batch(seed, step))

    The next call's batches are read while a call runs. Several replicas of a process take their
    places of one global batch, which is read once; every worker reads all of it.

    Args:
      make: the factory; elements are dicts of arrays [batch_size, ...], all of the same shapes.
      batch_size: examples in the global batch.
      seed: given to `make`; also the seed of the run's random numbers.
      transform: batch -> batch, traced into the step: scaling, augmentation.

    Raises:
      ValueError: if batch_size is below 1.
      FeedError: when a batch is asked for, where the data set has ended (names the step), or a
        batch has another size, shape or dtype.
    """

    def __init__(
        self,
        make: Factory,
        *,
        batch_size: int,
        seed: int = 0,
        transform: Transform | None = None,
    ) -> None:
        self.make = make
        self.batch_size = batch_size
        self.seed = seed
        self.transform = transform
        self._stream = BatchStream("Dataset", batch_size, self._from)

    def _from(self, step: int) -> Iterator[Mapping[str, Any]]:
        # tf.data runs on the host, whatever the device of this replica's tensors.
        with tf.device("/cpu:0"):
            dataset = self.make(self.seed, step)
            if not isinstance(dataset, tf.data.Dataset):
                raise TypeError(
                    f"Dataset: make expected to return a tf.data.Dataset, found {type(dataset)}"
                )
            if dataset.options().deterministic is False:
                raise ValueError(
                    "Dataset: expected a deterministic data set, found options().deterministic="
                    "False, with which no resume is exact; leave the option out"
                )
            numpy: Iterator[Mapping[str, Any]] = dataset.as_numpy_iterator()
            return numpy

    def resident(self) -> Batch:
        """Nothing stays on the device."""
        return {}

    def available(self, first_step: int, count: int) -> int:
        """How many of `count` steps from `first_step` have a batch before the data set ends."""
        return self._stream.available(first_step, count)

    def chunk(self, first_step: int, count: int, capacity: int, layout: Layout) -> Chunk:
        """The replica's part of the batches of `count` steps, name -> [capacity, P, ...]."""
        return self._stream.chunk(first_step, count, capacity, layout)

    def batch(self, resident: Mapping[str, tf.Tensor], chunk: Batch, row: tf.Tensor) -> Batch:
        """One row of the chunk, transformed."""
        del resident
        batch = unstacked(chunk, row)
        return self.transform(batch) if self.transform else batch

    def example_ids(self, step: int) -> None:
        """A data set's examples have no ids."""
        del step

    def evaluation_chunks(
        self, layouts: Sequence[Layout], capacity: int
    ) -> Iterator[tuple[Chunk, ...]]:
        """Every batch of `make(seed, 0)` once; the last may be smaller, and is padded and masked.

        Raises:
          ValueError: if the data set repeats without end.
        """
        if self.make(self.seed, 0).cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "Dataset: an evaluation expected a finite data set, found an infinite one; leave "
                "repeat() out"
            )
        return padded_chunks(self._stream.batches(), layouts, capacity)


def repeated(examples: tf.data.Dataset, *, batch_size: int, shuffle_buffer: int = 0) -> Factory:
    """A factory of endless batches from a finite data set of single examples.

    Epochs follow one another without dropping an example. A resume reads and skips what was seen,
    which takes time for long runs; `Records` seeks.

    Args:
      examples: its elements are dicts of arrays, one example each.
      batch_size: examples in the global batch.
      shuffle_buffer: examples the shuffle chooses from, reshuffled every epoch by the run's seed; 0
        for the order of the data set.

    Returns:
      `make(seed, start_step)` for `Dataset`.
    """

    def make(seed: int, start_step: int) -> tf.data.Dataset:
        dataset = examples
        if shuffle_buffer:
            dataset = dataset.shuffle(shuffle_buffer, seed=seed, reshuffle_each_iteration=True)
        return dataset.repeat().batch(batch_size, drop_remainder=True).skip(start_step)

    return make
