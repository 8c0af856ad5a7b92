"""Replicas: a thin wrapper over `tf.distribute` that the compiled loop runs steps through.

One strategy a process: two on virtual CPUs collide in their collectives.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from loop.distribute.cluster import Cluster, ClusterError, lost_worker, meet
from loop.distribute.cluster import from_environment as cluster_of
from loop.distribute.peers import LOST_SECONDS, Peers
from loop.errors import WorkerFailedError, WorkerLostError

_log = logging.getLogger(__name__)

MEET_SECONDS = 25.0
"""How long workers wait for each other; with the imports before it about half a minute."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Replicas:
    """The replicas of a run.

    Attributes:
      strategy: the `tf.distribute.Strategy`; None for one replica without one.
      count: replicas on all workers together.
      local_ids: the ids of this worker's replicas, in the strategy's order.
      workers: number of workers (processes).
      worker: this worker's index; worker 0 is the chief.
      description: what was chosen and why, for the log.
      peers: the connections with the other workers; None with one worker.
    """

    strategy: Any
    count: int
    local_ids: tuple[int, ...]
    description: str
    workers: int = 1
    worker: int = 0
    peers: Peers | None = None

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes logs and checkpoints."""
        return self.worker == 0

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which the variables of model, optimizer and counter are made."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    @contextlib.contextmanager
    def naming_a_lost_worker(self) -> Iterator[None]:
        """Inside it TensorFlow's error after the loss of a worker is raised as a WorkerLostError.

        Raises:
          WorkerLostError: names the worker, in one line.
        """
        try:
            yield
        except tf.errors.OpError as error:
            lost = self.peers and lost_worker(str(error.message), self.peers)
            if not lost:
                raise
            raise WorkerLostError(
                f"worker {self.worker} of {self.workers} lost {lost}; start all of them again: the "
                "run goes on from its last checkpoint"
            ) from error

    @contextlib.contextmanager
    def failing_together(self) -> Iterator[None]:
        """If one worker raises inside it, all do; for what one worker does by itself at the start.

        Without it the others would wait in their next collective, for a worker that has ended. All
        workers must enter it: it ends with a collective of the host.

        Raises:
          WorkerFailedError: on the workers that did not fail; one that failed raises its own.
        """
        try:
            yield
        except Exception:
            self.gather([1])
            raise
        failed = np.flatnonzero(self.gather([0])[:, 0])
        if failed.size:
            raise WorkerFailedError(
                f"worker {self.worker} of {self.workers}: worker {failed[0]} cannot start the run, "
                "and its own line says why"
            )

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
        """Sums tensors over the replicas in one packed collective; only within `run`."""
        context = tf.distribute.get_replica_context()
        reduced: list[tf.Tensor] = context.all_reduce(tf.distribute.ReduceOp.SUM, values)
        return reduced

    def _from_first(self, array: npt.NDArray[np.int64]) -> Any:
        """A per-replica value: the array on this worker's first replica, zeros on its others."""

        def share(replica: int) -> tf.Tensor:
            first = replica == self.local_ids[0]
            return tf.constant(array if first else np.zeros_like(array))

        return self.per_replica(share)

    def _host_sum(self, share: Any) -> npt.NDArray[np.int64]:
        """The sum of a per-replica tensor, from outside a step."""
        with self.naming_a_lost_worker():
            total: npt.NDArray[np.int64] = self.first(self._compiled_sum(share)).numpy()
        return total

    @functools.cached_property
    def _compiled_sum(self) -> Callable[[Any], Any]:
        """A graph, since eager collectives are slow."""

        def summed(share: Any) -> Any:
            # The identity gives the argument this replica's device, which the collective asks for.
            return self.run(lambda mine: self.all_reduce_sum([tf.identity(mine)])[0], share)

        compiled: Callable[[Any], Any] = tf.function(summed, autograph=False)
        return compiled

    def gather(self, numbers: Sequence[int]) -> npt.NDArray[np.int64]:
        """Every worker's numbers, on every worker: int64 [workers, len(numbers)].

        A collective of the host: all workers must call it, in the same order.
        """
        if self.workers == 1:
            return np.asarray([numbers], np.int64)
        table = np.zeros([self.workers, len(numbers)], np.int64)
        table[self.worker] = numbers
        return self._host_sum(self._from_first(table))

    def broadcast_from_chief(self, state: Mapping[str, tf.Variable]) -> None:
        """Gives every worker the chief's values, to the bit; nothing with one worker.

        The values travel as integers, of which all but the chief's are zero, so that their sum is
        exact; and no worker but the chief needs to read the run's directory.
        """
        if self.workers == 1:
            return
        values = [np.asarray(variable.numpy()) for variable in state.values()]
        bits = np.concatenate([_as_integers(value) for value in values])
        share = self._from_first(bits if self.is_chief else np.zeros_like(bits))
        summed = self._host_sum(share)
        ends = np.cumsum([value.size for value in values])
        parts = np.split(summed, ends[:-1])
        for variable, value, part in zip(state.values(), values, parts, strict=True):
            integers = part.astype(_INTEGERS[value.dtype.itemsize])
            variable.assign(integers.view(value.dtype).reshape(value.shape))


_INTEGERS = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}


def _as_integers(array: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The bits of each element as an int64 of its own: a type that every collective sums."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(_INTEGERS[flat.dtype.itemsize]).astype(np.int64)


def single() -> Replicas:
    """One replica on the default device."""
    return Replicas(None, 1, (0,), "single: one replica on the default device")


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
    return Replicas(strategy, count, tuple(range(count)), f"mirrored: {count} {kind}")


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


def multi_worker(
    cluster: Cluster | None = None,
    *,
    meet_seconds: float = MEET_SECONDS,
    lost_seconds: float = LOST_SECONDS,
) -> Replicas:
    """This worker's part of a run on several processes or machines.

    TensorFlow's server then listens on this worker's port on every interface, and trusts whoever
    reaches it: keep the ports inside a network that you trust.

    A worker has finished if it exits with status 0. From here on, if another worker ends without
    having finished, this process ends too: if it has not ended by itself `lost_seconds` later, it
    is killed with a line on stderr.

    Args:
      cluster: the workers; None for what TF_CONFIG or a Slurm job step names.
      meet_seconds: how long to wait for all of them.
      lost_seconds: see `Peers.watch`.

    Raises:
      ClusterError: where no cluster is named, it is named wrongly, or a worker is absent.
    """
    cluster = cluster or cluster_of(os.environ)
    if cluster is None:
        raise ClusterError("multi_worker: TF_CONFIG expected to name the workers, found unset")
    peers = meet(cluster, seconds=meet_seconds)
    with contextlib.ExitStack() as unless_made:
        # Without the strategy this is no worker; the others learn it from their connections.
        unless_made.callback(peers.close)
        watch = peers.watch(seconds=lost_seconds)
        if watch is not None:
            unless_made.callback(watch.end)
        _log.info("worker %d of %d: all workers are there", cluster.index, len(cluster.workers))
        strategy = _strategy(cluster, peers)
        unless_made.pop_all()
    count, workers = strategy.num_replicas_in_sync, len(cluster.workers)
    local = count // workers
    ids = tuple(range(cluster.index * local, (cluster.index + 1) * local))
    description = f"multi_worker: worker {cluster.index} of {workers}, {local} replicas each"
    return Replicas(strategy, count, ids, description, workers, cluster.index, peers)


def _strategy(cluster: Cluster, peers: Peers) -> Any:
    # One job of workers, whatever TF_CONFIG calls them: worker 0 is the chief to TensorFlow too.
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.workers)}),
        task_type="worker",
        task_id=cluster.index,
        rpc_layer="grpc",
    )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except tf.errors.OpError as error:
        message = str(error.message)
        raise ClusterError(
            f"worker {cluster.index}: TensorFlow cannot reach the workers that were there "
            f"({lost_worker(message, peers) or message.splitlines()[0]}); start all of them again"
        ) from error


def make(kind: str, *, virtual_devices: int = 0, meet_seconds: float = MEET_SECONDS) -> Replicas:
    """Replicas by the name of their kind.

    Args:
      kind: "single"; "mirrored"; "multi_worker"; or "auto": multi_worker where TF_CONFIG or Slurm
        names a cluster, mirrored where there are several GPUs or virtual devices, else single.
      virtual_devices: see `mirrored`.
      meet_seconds: see `multi_worker`.

    Raises:
      ValueError: on another kind, or where the kind does not fit the machine.
      ClusterError: see `multi_worker`.
    """
    if kind == "auto":
        several = virtual_devices or len(tf.config.get_visible_devices("GPU")) > 1
        kind = "mirrored" if several else "single"
        if cluster_of(os.environ) is not None:
            kind = "multi_worker"
    if kind == "single":
        return single()
    if kind == "mirrored":
        return mirrored(virtual_devices=virtual_devices)
    if kind == "multi_worker":
        return multi_worker(meet_seconds=meet_seconds)
    raise ValueError(
        f"distribute: kind must be single, mirrored, multi_worker or auto, got {kind!r}"
    )
