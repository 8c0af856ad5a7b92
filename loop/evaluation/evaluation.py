"""Evaluation: every example once, on any number of replicas."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from kernels import target
from loop.compiled import fusion, uncompilable
from loop.compiled.compiled_loop import Mode
from loop.compiled.regions import xla_region
from loop.compiled.traced import take_apart, traced_method, weak_method
from loop.distribute import Replicas
from loop.feeds import Chunk, EvaluationFeed, layout
from loop.feeds.as_feed import as_evaluation_feed
from loop.feeds.evaluating import ResidentEvaluation, StreamedEvaluation
from loop.metrics import Mean, Metric, State
from loop.user_code import called_for_values, without_inner_frames

_log = logging.getLogger(__name__)

EvaluationFunction = Callable[[dict[str, tf.Tensor]], Mapping[str, tf.Tensor]]

_States = dict[str, State]


class Evaluation:
    """Metrics over a whole data set.

    A NaN is one in every compile mode: graph mode runs without the fusions that hide it. A result
    that is not finite is said in the log.

    A partial batch is padded and masked: one trace, and each example counts once. A feed whose
    examples are on the device is evaluated in one call; one that streams, `batches_per_call`
    batches a call; the next ones are read during the call.

    Args:
      function: batch -> dict of values, one an example, [B, ...]; the model in inference mode.
      feed: the examples, with its `batch_size` a call's global batch; its order is not used. A
        finite `tf.data.Dataset` of batches is taken as it is.
      metrics: name -> metric of what the function returns; None for the mean of each value.
      batches_per_call: of a feed that streams.

    Raises:
      ValueError: if batches_per_call is below 1; when run, if a value is not one an example.
      TypeError: if the feed cannot be evaluated.
    """

    def __init__(
        self,
        function: EvaluationFunction,
        feed: EvaluationFeed | tf.data.Dataset,
        *,
        metrics: Mapping[str, Metric] | None = None,
        batches_per_call: int = 16,
    ) -> None:
        if batches_per_call < 1:
            raise ValueError(
                f"Evaluation: batches_per_call must be at least 1, got {batches_per_call}"
            )
        feed = as_evaluation_feed(feed, "Evaluation")
        self.function = function
        self.feed = feed
        self.metrics = None if metrics is None else dict(metrics)
        self.batches_per_call = batches_per_call

    def compiled(self, mode: Mode, replicas: Replicas) -> CompiledEvaluation:
        """The evaluation as a compiled call."""
        return CompiledEvaluation(self, mode, replicas)


class CompiledEvaluation:
    """An `Evaluation` for a compile mode and replicas; call it for the results.

    Attributes:
      mode: the compile mode.
      traces: how often it was traced.
    """

    def __init__(self, evaluation: Evaluation, mode: Mode, replicas: Replicas) -> None:
        self.traces = 0
        self.mode = mode
        self._replicas = replicas
        self._function = evaluation.function
        self._feed = feed = evaluation.feed
        self._metrics = evaluation.metrics
        self._capacity = evaluation.batches_per_call
        self._layouts = {
            replica: layout(feed.batch_size, replicas=replicas.count, replica=replica)
            for replica in replicas.local_ids
        }
        self._resident = replicas.per_replica(lambda _: dict(feed.resident()))
        self._whole: tuple[Any, int] | None = None
        if isinstance(feed, ResidentEvaluation):
            chunks = [feed.evaluation_chunk(feed.batch_size, own) for own in self._layouts.values()]
            self._whole = self._placed(chunks)
        self._specs: Any = {}
        whole = mode == "xla" and replicas.count == 1
        self._unfused = mode == "graph" and fusion.hides_nan()
        self._call: Callable[..., _States] = (
            weak_method(self._states)
            if mode == "eager"
            else traced_method(self._states, jit_compile=whole or None)
        )

    def compile(self) -> None:
        """Traces and compiles without evaluating anything."""
        chunk, _ = next(self._chunks())
        self._run(chunk, 0)

    def __call__(self) -> dict[str, Any]:
        """Name -> metric: a float, or nested lists of a metric that is an array."""
        total: dict[str, dict[str, Any]] = {}
        with ThreadPoolExecutor(1, "read the next batches") as background:
            chunks = self._chunks()
            following = background.submit(next, chunks, None)
            while (prepared := following.result()) is not None:
                following = background.submit(next, chunks, None)
                chunk, batches = prepared
                found = self._run(chunk, batches)
                total = self._merged(total, found) if total else found
        if self._metrics is None or not total:
            raise ValueError("Evaluation: expected at least one example, found none")
        computed = {name: self._metrics[name].compute(state) for name, state in total.items()}
        broken = [name for name, value in computed.items() if not _is_finite(value)]
        if broken:
            _log.warning("evaluation: %s not finite", ", ".join(map(repr, broken)))
        return {name: _plain(value) for name, value in computed.items()}

    def _run(self, chunk: Any, batches: int) -> Any:
        """The metrics' states over a chunk's first batches, on the host."""
        whole = fusion.unfused() if self._unfused else contextlib.nullcontext()
        with self._replicas.naming_a_lost_worker(), uncompilable.in_one_line(), whole:
            states = without_inner_frames(self._call, self._resident, chunk, tf.constant(batches))
            return tf.nest.map_structure(lambda tensor: tensor.numpy(), states)

    def _chunks(self) -> Iterator[tuple[Any, int]]:
        """Every call's chunk, in place, and its batches."""
        if self._whole is not None:
            yield self._whole
        elif isinstance(self._feed, StreamedEvaluation):
            layouts = list(self._layouts.values())
            yield from map(self._placed, self._feed.evaluation_chunks(layouts, self._capacity))

    def _placed(self, chunks: Sequence[Chunk]) -> tuple[Any, int]:
        of_replica = dict(zip(self._layouts, chunks, strict=True))
        tensors = self._replicas.per_replica(
            lambda replica: {n: tf.constant(array) for n, array in of_replica[replica].items()}
        )
        return tensors, len(chunks[0]["mask"])

    def _merged(self, left: Any, right: Any) -> Any:
        assert self._metrics is not None
        return {n: metric.merge(left[n], right[n]) for n, metric in self._metrics.items()}

    def _states(self, resident: Any, chunk: Any, batches: tf.Tensor) -> _States:
        self.traces += self.mode != "eager"
        packed = self._replicas.first(
            self._replicas.run(self._replica_states, resident, chunk, batches)
        )
        return _unpacked(packed, self._specs)

    def _replica_states(
        self, resident: dict[str, tf.Tensor], chunk: dict[str, tf.Tensor], batches: tf.Tensor
    ) -> tf.Tensor:
        """The sum of all replicas' states, packed into one vector."""
        if self.mode == "xla" and self._replicas.count > 1:
            local = xla_region(self._local_states)(resident, chunk, batches)
        else:
            with target.tracing_for(self.mode):
                local = self._local_states(resident, chunk, batches)
        if self._replicas.count == 1:
            return local
        return self._replicas.all_reduce_sum([local])[0]

    def _local_states(
        self, resident: dict[str, tf.Tensor], chunk: dict[str, tf.Tensor], batches: tf.Tensor
    ) -> tf.Tensor:
        def of(row: tf.Tensor) -> _States:
            batch = self._feed.batch(resident, chunk, row)
            values = called_for_values(
                "Evaluation: the function", self._function, batch, takes="the batch"
            )
            if self._metrics is None:
                self._metrics = {name: Mean(name) for name in values}
            return {
                name: metric.of(values, chunk["mask"][row])
                for name, metric in self._metrics.items()
            }

        def add(row: tf.Tensor, states: _States) -> tuple[tf.Tensor, _States]:
            return row + 1, self._merged(states, of(row))

        # Names and shapes of the values may have to be known before the loop: a trace that is
        # never run tells them.
        if self._metrics is None or not all(map(_is_built, self._metrics.values())):
            traced = tf.function(of, autograph=False).get_concrete_function(tf.constant(0))
            take_apart([traced.graph])  # In eager mode it has captured the data.
        assert self._metrics is not None
        empty = {name: metric.empty() for name, metric in self._metrics.items()}
        self._specs = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), empty)
        _, states = tf.while_loop(
            lambda row, _: row < batches, add, (tf.constant(0), empty), parallel_iterations=1
        )
        return _packed(states)


def _is_built(metric: Metric) -> bool:
    """Whether the metric knows its state before it sees values; Keras's may not."""
    return bool(getattr(metric, "is_built", True))


def _packed(states: _States) -> tf.Tensor:
    """All states as one float64 vector: one collective; counts are exact up to 2**53."""
    parts = [tf.reshape(tf.cast(part, tf.float64), [-1]) for part in tf.nest.flatten(states)]
    return tf.concat(parts, 0)


def _unpacked(packed: tf.Tensor, specs: Any) -> _States:
    flat = tf.nest.flatten(specs)
    parts = tf.split(packed, [spec.shape.num_elements() for spec in flat])
    shaped = [
        tf.cast(tf.reshape(part, spec.shape), spec.dtype)
        for part, spec in zip(parts, flat, strict=True)
    ]
    states: _States = tf.nest.pack_sequence_as(specs, shaped)
    return states


def _is_finite(value: Any) -> bool:
    """Whether every number of a metric is finite."""
    return all(np.isfinite(np.asarray(part)).all() for part in tf.nest.flatten(value))


def _plain(value: Any) -> Any:
    """The value as JSON can hold it."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return np.asarray(value).tolist()
