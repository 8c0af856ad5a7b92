"""A model's outputs for a whole data set, in its order."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kernels import target
from loop.compiled import fusion, uncompilable
from loop.compiled.compiled_loop import Mode
from loop.compiled.regions import xla_region
from loop.compiled.traced import traced_method, weak_method
from loop.distribute import Replicas
from loop.feeds import Chunk, EvaluationFeed, layout
from loop.feeds.as_feed import as_evaluation_feed
from loop.feeds.evaluating import ResidentEvaluation
from loop.user_code import called_for_values, without_inner_frames

_log = logging.getLogger(__name__)

PredictionFunction = Callable[[dict[str, tf.Tensor]], Mapping[str, tf.Tensor]]
Outputs = dict[str, npt.NDArray[Any]]

_BATCHES_PER_CHUNK = 16


class Prediction:
    """What a function gives for every example of a feed, in the feed's order.

    A NaN is one in every compile mode, as in an `Evaluation`; how many examples have one is logged.

    A partial batch is padded to keep one trace, and the padding is cut off again. The outputs go to
    the host batch by batch, so only they have to fit into its memory. On the averaged weights:
    `with trainer.evaluated_weights(): prediction()`.

    Args:
      function: batch -> dict of outputs, [B, ...] each; the model in inference mode.
      feed: the examples, as for `Evaluation`.
      mode: "xla", "graph" or "eager".
      replicas: where it runs; of one worker.

    Attributes:
      traces: how often it was traced.

    Raises:
      ValueError: with several workers, of which each would see only its own examples; when called,
        if an output does not have one row an example.
    """

    def __init__(
        self,
        function: PredictionFunction,
        feed: EvaluationFeed | tf.data.Dataset,
        mode: Mode,
        replicas: Replicas,
    ) -> None:
        feed = as_evaluation_feed(feed, "Prediction")
        if replicas.workers > 1:
            raise ValueError(
                f"Prediction: expected one worker, found {replicas.workers}; predict from the "
                "checkpoint in a process of its own"
            )
        self.traces = 0
        self._function = function
        self._feed = feed
        self._mode = mode
        self._replicas = replicas
        self._resident = replicas.per_replica(lambda _: dict(feed.resident()))
        self._unfused = mode == "graph" and fusion.hides_nan()
        whole = mode == "xla" and replicas.count == 1
        self._call: Callable[..., Any] = (
            weak_method(self._outputs)
            if mode == "eager"
            else traced_method(self._outputs, jit_compile=whole or None)
        )

    def __call__(self) -> Outputs:
        """Name -> array [examples, ...]; of a half type as float32 holds it."""
        parts: list[Outputs] = []
        for chunks in self._chunks():
            placed = self._replicas.per_replica(
                lambda replica, chunks=chunks: {  # type: ignore[misc]
                    name: tf.constant(array) for name, array in chunks[replica].items()
                }
            )
            masks = [chunk["mask"] for chunk in chunks]
            for row in range(len(masks[0])):
                if any(mask[row].any() for mask in masks):
                    unfused = fusion.unfused() if self._unfused else contextlib.nullcontext()
                    with uncompilable.in_one_line(), unfused:
                        outputs = without_inner_frames(
                            self._call, self._resident, placed, tf.constant(row)
                        )
                    parts.append(self._in_order(outputs, [mask[row] for mask in masks]))
        if not parts:
            raise ValueError("Prediction: expected at least one example, found none")
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for name, output in whole.items():
            if output.dtype.kind in "fc":
                broken = ~np.isfinite(output).reshape(len(output), -1).all(1)
                if broken.any():
                    _log.warning(
                        "prediction: %r of %d of %d examples is not finite",
                        name,
                        broken.sum(),
                        len(output),
                    )
        return whole

    def _chunks(self) -> Iterator[Sequence[Chunk]]:
        """One chunk a replica, until every example was in one."""
        count, size = self._replicas.count, self._feed.batch_size
        layouts = [layout(size, replicas=count, replica=replica) for replica in range(count)]
        if isinstance(self._feed, ResidentEvaluation):
            yield [self._feed.evaluation_chunk(size, own) for own in layouts]
        else:
            yield from self._feed.evaluation_chunks(layouts, _BATCHES_PER_CHUNK)

    def _outputs(self, resident: Any, chunk: Any, row: tf.Tensor) -> dict[str, list[tf.Tensor]]:
        """Every replica's outputs for one batch."""
        self.traces += self._mode != "eager"
        outputs = self._replicas.run(self._replica_outputs, resident, chunk, row)
        strategy = self._replicas.strategy
        return {
            name: [part] if strategy is None else list(strategy.experimental_local_results(part))
            for name, part in outputs.items()
        }

    def _replica_outputs(
        self, resident: dict[str, tf.Tensor], chunk: dict[str, tf.Tensor], row: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        if self._mode == "xla" and self._replicas.count > 1:
            compiled: dict[str, tf.Tensor] = xla_region(self._local)(resident, chunk, row)
            return compiled
        with target.tracing_for(self._mode):
            return self._local(resident, chunk, row)

    def _local(
        self, resident: dict[str, tf.Tensor], chunk: dict[str, tf.Tensor], row: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        outputs = {}
        size = chunk["mask"].shape[1]
        batch = self._feed.batch(resident, chunk, row)
        values = called_for_values(
            "Prediction: the function", self._function, batch, takes="the batch"
        )
        for name, value in values.items():
            output = tf.convert_to_tensor(value)
            if output.shape.rank == 0 or output.shape[0] != size:
                raise ValueError(
                    f"Prediction: {name!r} has shape {output.shape}; expected one row an example, "
                    f"({size}, ...)"
                )
            half = output.dtype.is_floating and output.dtype.size < 4
            outputs[name] = tf.cast(output, tf.float32) if half else output
        return outputs

    def _in_order(
        self, outputs: Mapping[str, Sequence[tf.Tensor]], masks: Sequence[Any]
    ) -> Outputs:
        """One batch's rows; replicas hold contiguous slices, so their order is the batch's."""
        return {
            name: np.concatenate(
                [part.numpy()[mask] for part, mask in zip(parts, masks, strict=True)]
            )
            for name, parts in outputs.items()
        }
