"""Batches from any `tf.data.Dataset`, stacked on the host for a call."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from loop.feeds import data_set_graph, facts
from loop.feeds.arrays import Transform
from loop.feeds.errors import FeedError
from loop.feeds.evaluating import padded_chunks
from loop.feeds.feed import Batch, Chunk
from loop.feeds.layout import Layout
from loop.feeds.nest import named_leaves
from loop.feeds.stream import BatchStream, full_batches

_log = logging.getLogger(__name__)

Factory = Callable[[int, int], tf.data.Dataset]
"""`make(seed, start_step)`: the data set of the global batches from that step on."""


class Dataset:
    """Batches from a `tf.data.Dataset` or TFDS.

    A data set of batches is taken as it is. A resume reads the batches of the epoch before its step
    once more and leaves them, which takes their time. The data set is opened from its graph
    (`loop.feeds.data_set_graph`), so that its shuffles give the same order each time, in each
    process, also where they have no seed.

    A factory resumes faster where the source can seek: `make(seed, s)` must give the batches that
    `make(seed, 0)` gives after `s` others. `repeated` makes a factory from a data set of single
    examples. Random transformations belong in `transform`, or are stateless functions of seed and
    step.

        def make(seed: int, start_step: int) -> tf.data.Dataset:
            steps = tf.data.Dataset.range(start_step, 2**62)
            return steps.map(lambda step: read_batch(seed, step))

    The input ends where the data set does, a smaller last batch left out; `Trainer.train(epochs=)`
    reads it several times, each time shuffled anew: a factory's by the seeds `seed`, `seed + 1`,
    ... The next call's batches are read while a call runs. Several replicas of a process take their
    places of one global batch, which is read once; every worker reads all of it.

    Args:
      make: a data set whose elements are batches, or the factory of one; elements are nests of
        arrays [batch_size, ...], all of the same shapes.
      batch_size: examples in the global batch; None for those of the data set's elements.
      seed: given to `make`, and for shuffles without one; also of the run's random numbers.
      transform: batch -> batch, traced into the step: scaling, augmentation.

    Raises:
      TypeError: if `make` is neither.
      ValueError: if batch_size is below 1, or missing beside a factory; if an order of chance is
        asked for (`deterministic=False`).
      FeedError: if the data set's elements are no batches; when a batch is asked for, if it has
        another size, shape or dtype, or cannot be read (names the step).
    """

    def __init__(
        self,
        make: Factory | tf.data.Dataset,
        *,
        batch_size: int | None = None,
        seed: int = 0,
        transform: Transform | None = None,
    ) -> None:
        self.seed = seed
        self.transform = transform
        self._epochs = 1
        self._dataset = make if isinstance(make, tf.data.Dataset) else None
        if self._dataset is not None:
            _require_order(self._dataset)
            if batch_size is None:
                batch_size = self._facts.batch_size or _size_of_first(self._dataset)
            self._say_what_a_resume_costs()
        elif not callable(make):
            raise TypeError(
                f"Dataset: expected a tf.data.Dataset or a function (seed, start_step) that makes "
                f"one, found {type(make).__name__}; use feeds.Arrays for arrays"
            )
        elif batch_size is None:
            raise ValueError("Dataset: a function that makes the data set needs `batch_size`")
        self._make = make
        self.batch_size = batch_size
        self._stream = BatchStream("Dataset", batch_size, self._from, owned=True)

    def _say_what_a_resume_costs(self) -> None:
        steps = self.steps_per_epoch
        _log.info(
            "Dataset: a tf.data.Dataset as it is%s: a resume is exact, and first reads the batches "
            "before its step %s again; a function (seed, start_step) can seek",
            "" if steps is None else f", {steps} steps an epoch",
            "from the start" if steps is None else "of its epoch",
        )
        if self._facts.random:
            _log.warning(
                "Dataset: the data set draws random numbers that a resume does not draw again "
                "(%s): it is not exact; draw them in `transform`, or by tf.random.stateless_* from "
                "a number of the example",
                ", ".join(self._facts.random),
            )

    @functools.cached_property
    def _facts(self) -> data_set_graph.Facts:
        with tf.device("/cpu:0"):
            return data_set_graph.facts(self._made(0, 0))

    @property
    def steps_per_epoch(self) -> int | None:
        """The full batches of the data set; None where that is not known, or it has no end."""
        return self._facts.batches

    def steps_in(self, epochs: int) -> int | None:
        """The steps of so many epochs; None where `steps_per_epoch` is."""
        steps = self.steps_per_epoch
        return None if steps is None else epochs * steps

    def repeat(self, epochs: int) -> None:
        """Lets the input end after so many epochs, counted from step 0; 1 unless called.

        Raises:
          ValueError: for more than one of an unknown length.
        """
        if epochs > 1 and self.steps_per_epoch is None:
            raise ValueError(f"Dataset: epochs={epochs} of a data set whose length is not known")
        if epochs != self._epochs:
            self._epochs = epochs
            self._stream.reset()

    def _made(self, step: int, epoch: int) -> tf.data.Dataset:
        """The data set of an epoch from a step of it on."""
        if self._dataset is not None:
            return self._dataset
        assert not isinstance(self._make, tf.data.Dataset)
        dataset = self._make(self.seed + epoch, step)
        if not isinstance(dataset, tf.data.Dataset):
            raise TypeError(
                f"Dataset: make expected to return a tf.data.Dataset, found {type(dataset)}"
            )
        _require_order(dataset)
        return dataset

    def _opened(self, step: int, epoch: int) -> Iterator[Any]:
        """The batches of an epoch from a step of it on."""
        # tf.data runs on the host, whatever the device of this replica's tensors.
        with tf.device("/cpu:0"):
            dataset = self._made(step, epoch)
            if self._dataset is None:
                dataset = data_set_graph.opened(dataset, self.seed + epoch)
            else:
                dataset = data_set_graph.opened(dataset, self.seed, epoch)
                if step:
                    _log.info("Dataset: reading and leaving %d batches, up to this step", step)
                    dataset = dataset.skip(step)
            numpy: Iterator[Any] = dataset.as_numpy_iterator()
            return numpy

    def _from(self, step: int) -> Iterator[Any]:
        """The batches from a step on, up to the end of the last epoch."""
        if self._epochs == 1:
            return self._opened(step, 0)
        steps = self.steps_per_epoch
        assert steps is not None
        first, within = divmod(step, steps)
        return itertools.chain.from_iterable(
            full_batches(
                self._opened(within if epoch == first else 0, epoch), self.batch_size, "Dataset"
            )
            for epoch in range(first, self._epochs)
        )

    def resident(self) -> dict[str, tf.Tensor]:
        """Nothing stays on the device."""
        return {}

    def available(self, first_step: int, count: int) -> int:
        """How many of `count` steps from `first_step` have a batch before the data set ends."""
        return self._stream.available(first_step, count)

    def chunk(self, first_step: int, count: int, capacity: int, layout: Layout) -> Chunk:
        """The replica's part of the batches of `count` steps, name -> [capacity, P, ...]."""
        return self._stream.chunk(first_step, count, capacity, layout)

    def batch(
        self, resident: Mapping[str, tf.Tensor], chunk: Mapping[str, tf.Tensor], row: tf.Tensor
    ) -> Batch:
        """One row of the chunk, transformed."""
        del resident
        batch = self._stream.unstacked(chunk, row)
        return self.transform(batch) if self.transform else batch

    def example_ids(self, step: int) -> None:
        """A data set's examples have no ids."""
        del step

    def facts(self) -> dict[str, Any]:
        """The dtypes and shapes of an element, all that is known of a stream that was not read."""
        with tf.device("/cpu:0"):
            _, specs = named_leaves(self._made(0, 0).element_spec)
        return {
            "features": {
                name: facts.feature(leaf.dtype.as_numpy_dtype, leaf.shape[1:])
                for name, leaf in specs.items()
                if isinstance(leaf, tf.TensorSpec) and leaf.shape.rank
            }
        }

    def evaluation_chunks(
        self, layouts: Sequence[Layout], capacity: int
    ) -> Iterator[tuple[Chunk, ...]]:
        """Every batch of one epoch once; the last may be smaller, and is padded and masked.

        Raises:
          ValueError: if the data set repeats without end.
        """
        if self._made(0, 0).cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "Dataset: an evaluation expected a finite data set, found an infinite one; leave "
                "repeat() out"
            )
        return padded_chunks(self._stream.checked(self._opened(0, 0)), layouts, capacity)


def _require_order(dataset: tf.data.Dataset) -> None:
    if dataset.options().deterministic is False:
        raise ValueError(
            "Dataset: expected a deterministic data set, found options().deterministic=False, with "
            "which no resume is exact; leave the option out"
        )


def _size_of_first(dataset: tf.data.Dataset) -> int:
    """The examples in a data set's first element."""
    first = next(iter(dataset.take(1)), None)
    if first is None:
        raise FeedError(
            "Dataset: expected at least one batch, found none; look at the paths and filters that "
            "it comes from"
        )
    _, leaves = named_leaves(first)
    sizes = {name: leaf.shape[0] if leaf.shape.rank else None for name, leaf in leaves.items()}
    (size, *others) = set(sizes.values())
    if others or size is None:
        shown = ", ".join(f"{name!r} of shape {leaf.shape}" for name, leaf in leaves.items())
        raise FeedError(
            f"Dataset: expected elements that are batches, found single examples ({shown}); add "
            ".batch(SIZE, drop_remainder=True)"
        )
    return int(size)


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
