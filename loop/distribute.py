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
        result: T = self.strategy.experimental_distribute_values_from_function(
            lambda context: make(int(context.replica_id_in_sync_group))
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
    return Replicas(None, 1, (0,), True, "single: one replica, no strategy")
