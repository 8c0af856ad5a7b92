"""Replicas: a thin wrapper over `tf.distribute` that the compiled loop runs steps through."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import tensorflow as tf

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Replicas:
    """The replicas of a run.

    Attributes:
      strategy: the `tf.distribute.Strategy`; None for one replica without one.
      count: replicas on all workers together.
      local_ids: the ids of this worker's replicas, in the strategy's order.
      is_chief: whether this worker writes logs and checkpoints.
      description: what was chosen and why, for the log.
    """

    strategy: Any
    count: int
    local_ids: tuple[int, ...]
    is_chief: bool
    description: str

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which the variables of model, optimizer and counter are made."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Runs `function` on every replica; per-replica arguments arrive as this replica's."""
        if self.strategy is None:
            return function(*arguments)
        result: T = self.strategy.run(function, args=arguments)
        return result

    def per_replica(self, make: Callable[[int], T]) -> T:
        """One value for each replica, `make(replica id)`, on that replica's device."""
        if self.strategy is None:
            return make(0)
        ids = iter(self.local_ids)  # TensorFlow's own argument counts from 0 on every worker
        result: T = self.strategy.experimental_distribute_values_from_function(
            lambda _: make(next(ids))
        )
        return result

    def first(self, value: Any) -> Any:
        """This worker's first replica's part of what `run` returned."""
        if self.strategy is None:
            return value
        return tf.nest.map_structure(
            lambda part: self.strategy.experimental_local_results(part)[0], value
        )

    def all_reduce_sum(self, values: list[tf.Tensor]) -> list[tf.Tensor]:
        """Sums tensors over the replicas in one packed collective; within `run` alone."""
        context = tf.distribute.get_replica_context()
        reduced: list[tf.Tensor] = context.all_reduce(tf.distribute.ReduceOp.SUM, values)
        return reduced


def single() -> Replicas:
    """One replica on the default device."""
    return Replicas(None, 1, (0,), True, "single: one replica on the default device")


def mirrored(*, virtual_devices: int = 0) -> Replicas:
    """A replica on every GPU, or on each of `virtual_devices` logical CPUs.

    Args:
      virtual_devices: parts the CPU is split into; 0 for the GPUs.

    Raises:
      ValueError: where there is neither a GPU nor a split asked for.
      RuntimeError: if TensorFlow has started before the CPU could be split.
    """
    if virtual_devices:
        split_cpu(virtual_devices)
        devices = [f"/cpu:{index}" for index in range(virtual_devices)]
    else:
        devices = [f"/gpu:{i}" for i, _ in enumerate(tf.config.get_visible_devices("GPU"))]
    if not devices:
        raise ValueError(
            "mirrored: expected a GPU, found none; --virtual_devices=N splits the CPU instead"
        )
    strategy = tf.distribute.MirroredStrategy(devices)
    count = strategy.num_replicas_in_sync
    kind = "virtual CPUs" if virtual_devices else "GPUs"
    return Replicas(strategy, count, tuple(range(count)), True, f"mirrored: {count} {kind}")


def split_cpu(count: int) -> None:
    """Makes `count` logical CPU devices of the one; before TensorFlow starts.

    Raises:
      ValueError: if count is below 1.
      RuntimeError: if TensorFlow has started with another number.
    """
    if count < 1:
        raise ValueError(f"split_cpu: count must be at least 1, got {count}")
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
    tf.config.set_logical_device_configuration(cpu, parts)


def make(kind: str, *, virtual_devices: int = 0) -> Replicas:
    """Replicas by the name of their kind.

    Args:
      kind: "single"; "mirrored"; "multi_worker"; or "auto": multi_worker where TF_CONFIG names a
        cluster, mirrored where there are several GPUs or virtual devices, else single.
      virtual_devices: see `mirrored`.

    Raises:
      ValueError: on another kind, or where the kind does not fit the machine.
    """
    if kind == "auto":
        several = virtual_devices or len(tf.config.get_visible_devices("GPU")) > 1
        kind = "mirrored" if several else "single"
    if kind == "single":
        return single()
    if kind == "mirrored":
        return mirrored(virtual_devices=virtual_devices)
    raise ValueError(f"distribute: kind must be single, mirrored or auto, got {kind!r}")
