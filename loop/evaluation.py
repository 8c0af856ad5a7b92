"""Evaluation: every example once, on any number of replicas, in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from kernels import target
from loop import rows as row_table
from loop.compile import Mode, xla_region
from loop.distribute import Replicas
from loop.feeds import Arrays, layout

EvaluationFunction = Callable[[dict[str, tf.Tensor]], Mapping[str, tf.Tensor]]


class Evaluation:
    """Means over a whole data set.

    The last partial batch is padded and masked: one trace, and each example counts once. Sums are
    kept in float64.

    Args:
      function: batch -> dict of per-example values [B]; the model in inference mode.
      feed: the examples, with its `batch_size` a call's global batch; its order is not used.

    Raises:
      ValueError: when run, if a value is not one an example.
    """

    def __init__(self, function: EvaluationFunction, feed: Arrays) -> None:
        self.function = function
        self.feed = feed

    def compiled(self, mode: Mode, replicas: Replicas) -> CompiledEvaluation:
        """The evaluation as one compiled call."""
        return CompiledEvaluation(self, mode, replicas)


class CompiledEvaluation:
    """An `Evaluation` for a compile mode and replicas; call it for the means.

    Attributes:
      traces: how often it was traced.
    """

    def __init__(self, evaluation: Evaluation, mode: Mode, replicas: Replicas) -> None:
        self.traces = 0
        self._mode = mode
        self._replicas = replicas
        self._function = evaluation.function
        self._feed = feed = evaluation.feed
        size = feed.batch_size
        self._resident = replicas.per_replica(lambda _: feed.resident())
        self._chunk = replicas.per_replica(
            lambda replica: {
                name: tf.constant(array)
                for name, array in feed.evaluation_chunk(
                    size, layout(size, replicas=replicas.count, replica=replica)
                ).items()
            }
        )
        self._batches = -(-feed.size // size)
        self._columns: tuple[str, ...] = ()
        whole = mode == "xla" and replicas.count == 1
        self._call: Callable[..., tf.Tensor] = (
            self._sums
            if mode == "eager"
            else tf.function(self._sums, jit_compile=whole or None, autograph=False)
        )

    def compile(self) -> None:
        """Traces and compiles without evaluating anything."""
        self._call(self._resident, self._chunk, tf.constant(0))

    def __call__(self) -> dict[str, float]:
        """Name -> mean over the examples, in float64."""
        sums = self._call(self._resident, self._chunk, tf.constant(self._batches)).numpy()
        count = self._feed.size
        return {name: float(sums[i] / count) for i, name in enumerate(self._columns)}

    def _sums(self, resident: Any, chunk: Any, batches: tf.Tensor) -> tf.Tensor:
        self.traces += self._mode != "eager"
        sums = self._replicas.run(self._replica_sums, resident, chunk, batches)
        return self._replicas.first(sums)

    def _replica_sums(
        self, resident: dict[str, tf.Tensor], chunk: dict[str, tf.Tensor], batches: tf.Tensor
    ) -> tf.Tensor:
        if self._mode == "xla" and self._replicas.count > 1:
            local = xla_region(self._local_sums)(resident, chunk, batches)
        else:
            with target.tracing_for(self._mode):
                local = self._local_sums(resident, chunk, batches)
        if self._replicas.count == 1:
            return local
        return self._replicas.all_reduce_sum([local])[0]

    def _local_sums(
        self, resident: dict[str, tf.Tensor], chunk: dict[str, tf.Tensor], batches: tf.Tensor
    ) -> tf.Tensor:

        def add(row: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batch = self._feed.batch(resident, chunk, row)
            mask = chunk["mask"][row]
            masked = {
                name: _masked_sum(name, value, mask)
                for name, value in self._function(batch).items()
            }
            self._columns, values = row_table.packed(masked)
            return row + 1, sums + values

        _, sums = tf.while_loop(
            lambda row, _: row < batches,
            add,
            (tf.constant(0), tf.zeros([row_table.CAPACITY], tf.float64)),
            parallel_iterations=1,
        )
        return sums


def _masked_sum(name: str, value: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    value = tf.convert_to_tensor(value)
    if value.shape != mask.shape:
        raise ValueError(
            f"Evaluation: {name!r} has shape {value.shape}; expected one value an example, "
            f"{mask.shape}: a mean over a padded batch would count the padding"
        )
    return tf.reduce_sum(tf.where(mask, tf.cast(value, tf.float64), tf.zeros([], tf.float64)))
