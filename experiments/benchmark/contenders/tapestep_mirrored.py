"""Ours on two virtual CPUs, its collectives counted."""

from __future__ import annotations

import tensorflow as tf

from experiments.benchmark import workloads
from experiments.benchmark.contenders import tapestep
from loop import distribute

REPLICAS = 2


class _Counting(distribute.Replicas):
    """Notes what every traced collective sums."""

    def all_reduce_sum(self, values: list[tf.Tensor]) -> list[tf.Tensor]:
        """As the base; tracing happens once on each replica."""
        self.traced_bytes.append(sum(_bytes(value) for value in values))
        return super().all_reduce_sum(values)

    @property
    def traced_bytes(self) -> list[int]:
        """Bytes of each traced collective, over all replicas."""
        noted: list[int] = self.__dict__.setdefault("_traced_bytes", [])
        return noted


def _bytes(value: tf.Tensor | tf.IndexedSlices) -> int:
    tensor = value.values if isinstance(value, tf.IndexedSlices) else value
    return int(tensor.shape.num_elements() or 0) * int(tensor.dtype.size)


class Contender(tapestep.Contender):
    """Ours, with the number and bytes of collectives a step as its note."""

    def __init__(self, workload: workloads.Workload, steps_per_call: int) -> None:
        plain = distribute.mirrored(virtual_devices=REPLICAS)
        replicas = _Counting(**{k: v for k, v in vars(plain).items() if not k.startswith("_")})
        self._replicas = replicas
        super().__init__(workload, steps_per_call, replicas=replicas)

    def first_losses(self, count: int) -> list[float]:
        """As the base; the step is traced by then."""
        losses = super().first_losses(count)
        traced = self._replicas.traced_bytes
        self.note += (
            f", {len(traced) // REPLICAS} collectives of {sum(traced) // REPLICAS} bytes a step"
        )
        return losses
