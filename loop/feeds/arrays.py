"""Arrays held on the device, gathered into batches inside the compiled call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from loop.feeds import facts
from loop.feeds.errors import FeedError
from loop.feeds.feed import Batch, Chunk
from loop.feeds.layout import Layout
from loop.feeds.nest import rebuilt
from loop.feeds.order import Order
from loop.feeds.stream import as_arrays

Transform = Callable[[Batch], Batch]


class Arrays:
    """Batches from arrays that fit in the device's memory.

    Batch *s* holds the places s * batch_size ... of the endless sequence of epochs, each epoch a
    permutation of its own. So no example is dropped, and a batch may be part of two epochs.

    Args:
      arrays: a nest of arrays [N, ...], all of the same N: a dict, a tuple `(x, y)`, dicts within
        dicts (see `loop.feeds.nest`). Kept in their dtype: uint8 images take a quarter of the
        memory and are converted in `transform`.
      batch_size: examples in the global batch, at most N.
      seed: of the order and of the run's random numbers.
      shuffle: False for the order of storage.
      transform: batch -> batch, traced into the step after the gather: scaling, augmentation. It
        may read `step_context.current` for seed, global step and positions.
      partners: also gather, under "partner", the batch whose row j is the example at position
        batch_size - 1 - j of the global batch: what mixup mixes with, on any number of replicas.

    Attributes:
      arrays: the arrays by name.
      size: N.

    Raises:
      ValueError: where one is no array of numbers or strings, their sizes differ or are zero, or
        batch_size does not fit.
      TypeError: on a `tf.data.Dataset`.
    """

    steps_per_call = 256
    """The most steps of a call of this feed: a row is some hundred bytes."""

    def __init__(
        self,
        arrays: Any,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        transform: Transform | None = None,
        partners: bool = False,
    ) -> None:
        if isinstance(arrays, tf.data.Dataset):
            raise TypeError(
                f"Arrays: expected arrays, found {type(arrays).__name__}; use feeds.Dataset for a "
                "tf.data.Dataset"
            )
        try:
            self._structure, self.arrays = as_arrays(arrays, "Arrays")
        except FeedError as error:
            raise ValueError(str(error)) from None
        sizes = {n: len(array) if array.ndim else -1 for n, array in self.arrays.items()}
        if -1 in sizes.values() or len(set(sizes.values())) != 1:
            raise ValueError(
                f"Arrays: expected arrays of one length, found {sizes} (-1: a single number); give "
                "every example one row in each of them"
            )
        if partners and not isinstance(self._structure, Mapping):
            raise ValueError(
                "Arrays: partners=True expected a dict of arrays, in which the partners are under "
                f"'partner', found {type(arrays).__name__}; name the arrays"
            )
        self.size: int = next(iter(sizes.values()))
        if not 1 <= batch_size <= self.size:
            raise ValueError(
                f"Arrays: batch_size must be from 1 to the {self.size} examples, got {batch_size}"
            )
        self.batch_size = batch_size
        self.seed = seed
        self.order = Order(self.size, seed, shuffle=shuffle)
        self.transform = transform
        self.partners = partners

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every example was seen; the last may be of the next epoch too."""
        return self.steps_in(1)

    def steps_in(self, epochs: int) -> int:
        """Steps until every example was seen so many times; the last may be of the next too."""
        return -(-epochs * self.size // self.batch_size)

    def resident(self) -> dict[str, tf.Tensor]:
        """The arrays as tensors on the current device."""
        return {name: tf.constant(array) for name, array in self.arrays.items()}

    def chunk(self, first_step: int, count: int, capacity: int, layout: Layout) -> Chunk:
        """Example indices int32 [capacity, P], and the mask where slices are padded."""
        steps = first_step + np.arange(count, dtype=np.int64)

        def indices(positions: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
            filled = np.zeros([capacity, len(positions)], np.int32)
            filled[:count] = self.order.indices(steps[:, None] * self.batch_size + positions)
            return filled

        chunk: Chunk = {"index": indices(layout.positions)}
        if self.partners:
            chunk["partner_index"] = indices(self.batch_size - 1 - layout.positions)
        if layout.mask is not None:
            chunk["mask"] = np.broadcast_to(layout.mask, chunk["index"].shape)
        return chunk

    def batch(self, resident: Mapping[str, tf.Tensor], chunk: Batch, row: tf.Tensor) -> Batch:
        """The examples of one row, gathered and transformed."""
        batch = self._gathered(resident, chunk["index"][row])
        if self.partners:
            batch["partner"] = self._gathered(resident, chunk["partner_index"][row])
        return self.transform(batch) if self.transform else batch

    def example_ids(self, step: int) -> npt.NDArray[np.int64]:
        """The rows of the arrays that batch `step` holds, by position in the global batch."""
        return self.order.indices(step * self.batch_size + np.arange(self.batch_size))

    def facts(self) -> dict[str, Any]:
        """Size, order, dtypes and shapes, and a fingerprint of some of the examples."""
        places = facts.sampled_examples(self.size)
        arrays = {name: np.asarray(array) for name, array in self.arrays.items()}
        return {
            "examples": self.size,
            "shuffle": self.order.shuffle,
            "partners": self.partners,
            "features": {n: facts.feature(a.dtype, a.shape[1:]) for n, a in arrays.items()},
            "fingerprint": {
                name: facts.fingerprint(facts.sampled_elements(array[place]) for place in places)
                for name, array in arrays.items()
            },
        }

    def evaluation_chunk(self, layouts_batch: int, layout: Layout) -> Chunk:
        """Every example once, in storage order: indices and mask [batches, P].

        Args:
          layouts_batch: examples in a global evaluation batch, of which `layout` is one replica's.
          layout: this replica's places in it.
        """
        batches = -(-self.size // layouts_batch)
        places = np.arange(batches, dtype=np.int64)[:, None] * layouts_batch + layout.positions
        mask = places < self.size
        if layout.mask is not None:
            mask = mask & layout.mask
        return {"index": np.where(mask, places, 0).astype(np.int32), "mask": mask}

    def _gathered(self, resident: Mapping[str, tf.Tensor], index: tf.Tensor) -> Batch:
        rows = {name: tf.gather(array, index) for name, array in resident.items()}
        return rebuilt(self._structure, rows)
