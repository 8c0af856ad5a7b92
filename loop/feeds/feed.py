"""What the loop asks of a source of batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from loop.feeds.layout import Layout

Batch = Any
"""A nest of tensors: a dict, a tuple, or parts within parts; see `loop.feeds.nest`."""

Chunk = dict[str, npt.NDArray[Any]]


class Feed(Protocol):
    """A source of training batches; (seed, s) decides which examples are in batch *s*.

    Attributes:
      batch_size: examples in the global batch.
      seed: the run's seed, for the order here and every random number of the steps.
    """

    batch_size: int
    seed: int

    def resident(self) -> Mapping[str, tf.Tensor]:
        """What stays on a replica's device for the whole run; passed to every call."""

    def chunk(self, first_step: int, count: int, capacity: int, layout: Layout) -> Chunk:
        """What one call needs for `count` steps from `first_step`, for one replica.

        Returns:
          name -> array with a leading axis of `capacity` (static shapes: one trace for every
          count); rows from `count` on are padding and are never read.
        """

    def batch(self, resident: Mapping[str, tf.Tensor], chunk: Batch, row: tf.Tensor) -> Batch:
        """Row `row` of the chunk as a batch; traced into the compiled call."""

    def example_ids(self, step: int) -> npt.NDArray[np.int64] | None:
        """The ids of the examples of batch `step`, by position; None where the source has none."""


@runtime_checkable
class MayEnd(Protocol):
    """A feed whose input may end; one without this method never does."""

    def available(self, first_step: int, count: int) -> int:
        """How many of `count` steps from `first_step` one call can have; reads their batches.

        Fewer than `count` where the input ends; 0, with a count above 0, only at its end.
        """


def available(feed: Feed, first_step: int, count: int) -> int:
    """How many of `count` steps from `first_step` the feed has batches for in one call."""
    return feed.available(first_step, count) if isinstance(feed, MayEnd) else count
