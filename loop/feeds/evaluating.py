"""What an evaluation asks of a source: every example once, on all replicas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import tensorflow as tf

from loop.feeds.feed import Batch, Chunk
from loop.feeds.layout import Layout
from loop.feeds.stream import HostBatch, Spec, stacked


class EvaluationSource(Protocol):
    """A source whose batches an evaluation can compute.

    Attributes:
      batch_size: examples in a call's global batch.
    """

    batch_size: int

    def resident(self) -> Mapping[str, tf.Tensor]:
        """As for `Feed`."""

    def batch(self, resident: Mapping[str, tf.Tensor], chunk: Batch, row: tf.Tensor) -> Batch:
        """As for `Feed`."""


@runtime_checkable
class ResidentEvaluation(EvaluationSource, Protocol):
    """A source of which one chunk covers all examples."""

    def evaluation_chunk(self, batch_size: int, layout: Layout, /) -> Chunk:
        """Every example once: arrays [batches, P, ...], "mask" bool [batches, P] among them."""


@runtime_checkable
class StreamedEvaluation(EvaluationSource, Protocol):
    """A source that covers all examples in many chunks, and never holds all of them."""

    def evaluation_chunks(
        self, layouts: Sequence[Layout], capacity: int
    ) -> Iterator[tuple[Chunk, ...]]:
        """Chunks of `capacity` batches, one for each layout; "mask" bool [capacity, P] in each."""


EvaluationFeed = ResidentEvaluation | StreamedEvaluation


def padded_chunks(
    batches: Iterable[HostBatch], layouts: Sequence[Layout], capacity: int
) -> Iterator[tuple[Chunk, ...]]:
    """Stacks batches by `capacity`, padding the last chunk and a smaller batch under the mask.

    Padding repeats an example: a function that is finite for the example is finite for the padding.
    """
    waiting: list[HostBatch] = []
    for batch in batches:
        waiting.append(batch)
        if len(waiting) == capacity:
            yield _masked(waiting, layouts, capacity)
            waiting = []
    if waiting:
        yield _masked(waiting, layouts, capacity)


def _masked(
    batches: list[HostBatch], layouts: Sequence[Layout], capacity: int
) -> tuple[Chunk, ...]:
    sizes = [len(next(iter(batch.values()))) for batch in batches]
    sizes += [0] * (capacity - len(batches))
    spec: Spec = {name: (array.dtype, array.shape[1:]) for name, array in batches[0].items()}
    full = batches + batches[-1:] * (capacity - len(batches))
    chunks = []
    for layout in layouts:
        mask = layout.positions < np.array(sizes)[:, None]
        if layout.mask is not None:
            mask = mask & layout.mask
        chunks.append({**stacked(full, spec, capacity, layout), "mask": mask})
    return tuple(chunks)
