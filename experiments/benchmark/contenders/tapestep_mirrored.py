"""Ours on two virtual CPUs, its collectives counted."""

from __future__ import annotations

from typing import Any
from unittest import mock

import tensorflow as tf

from experiments.benchmark import workloads
from experiments.benchmark.contenders import tapestep
from loop import distribute

REPLICAS = 2


def _bytes(value: tf.Tensor | tf.IndexedSlices) -> int:
    tensor = value.values if isinstance(value, tf.IndexedSlices) else value
    return int(tensor.shape.num_elements() or 0) * int(tensor.dtype.size)


class Contender(tapestep.Contender):
    """Ours, with the number and bytes of collectives a step as its note."""

    def __init__(self, workload: workloads.Workload, steps_per_call: int) -> None:
        replicas = distribute.mirrored(virtual_devices=REPLICAS)
        super().__init__(workload, steps_per_call, replicas=replicas)

    def first_losses(self, count: int) -> list[float]:
        """As the base; the step is traced in it, once on each replica."""
        traced: list[int] = []
        reduce = distribute.Replicas.all_reduce_sum

        def noted(replicas: distribute.Replicas, values: list[tf.Tensor]) -> Any:
            traced.append(sum(map(_bytes, values)))
            return reduce(replicas, values)

        with mock.patch.object(distribute.Replicas, "all_reduce_sum", noted):
            losses = super().first_losses(count)
        number, size = len(traced) // REPLICAS, sum(traced) // REPLICAS
        self.note += f", {number} collectives of {size} bytes a step"
        return losses
