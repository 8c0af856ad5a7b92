"""Which places of the global batch a replica computes.

A micro-batch of an accumulation is a contiguous slice of the global batch; each micro-batch is then
split over the replicas. So every replica count sees the same micro-batches, and only their division
differs. A slice is padded to equal size and masked: shapes stay static.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class Layout:
    """One replica's places in the global batch.

    Attributes:
      positions: int32 [P], in the order micro-batch by micro-batch; padding repeats position 0.
      mask: bool [P], False for padding; None when there is none on any replica.
    """

    positions: npt.NDArray[np.int32]
    mask: npt.NDArray[np.bool_] | None


def layout(batch_size: int, *, replicas: int = 1, replica: int = 0, accumulate: int = 1) -> Layout:
    """The layout of one replica.

    Args:
      batch_size: examples in the global batch.
      replicas: replicas in the run.
      replica: this replica, in [0, replicas).
      accumulate: micro-batches in the batch.

    Raises:
      ValueError: if the micro-batches do not divide the batch.
    """
    if batch_size < 1 or batch_size % accumulate:
        raise ValueError(
            f"layout: batch_size={batch_size} must be a positive multiple of accumulate="
            f"{accumulate}: micro-batches are equal slices of the batch"
        )
    micro_size = batch_size // accumulate
    local = -(-micro_size // replicas)
    within = replica * local + np.arange(local)
    mask = np.tile(within < micro_size, accumulate)
    starts = np.repeat(np.arange(accumulate) * micro_size, local)
    positions = np.where(mask, starts + np.tile(within, accumulate), 0).astype(np.int32)
    return Layout(positions, mask if micro_size % replicas else None)
