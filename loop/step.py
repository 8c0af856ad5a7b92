"""The stock training step: gradients, reduce, finite check, clip, optimizer, statistics."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from kernels import clipping, target
from loop import statistics, step_context
from loop.accumulation import accumulate, micro_batch
from loop.averaging.shadow_weights import ShadowWeights
from loop.compiled.undo import Before
from loop.feeds.feed import Batch
from loop.gradients import clip_gradients, reduce_sum, rows_exist
from loop.losses import LossFunction, loss_and_metrics, mean_share
from loop.optimizers import Optimizer
from loop.precision.loss_scale import LossScale, unscale_gradients
from loop.precision.policy import Precision, as_precision
from loop.step_arguments import check_arguments
from loop.step_context import MovingAverage, StepContext
from loop.variables import State, name_of, named, variable_of

_log = logging.getLogger(__name__)


class _Sums(NamedTuple):
    """What the slices of a batch add up to, over micro-batches and replicas."""

    gradients: list[Any]  # of the variables that the optimizer does not freeze
    loss: tf.Tensor
    metrics: dict[str, tf.Tensor]
    values: list[tf.Tensor]  # of the moving averages, each times its weight
    weights: list[tf.Tensor]


class GradientStep:
    """One update of `variables` by the gradient of a loss.

    The order of an update: gradients, sum over the replicas (the mean over the *global* batch), one
    global finite check, clip, what layers recorded or assigned (see `loop.statistics`), optimizer.
    A layer of Keras's assigns once a micro-batch. Where loss or
    gradient norm is not finite, or a sparse gradient has a row that its variable lacks (an id out
    of range, for which XLA raises nothing), nothing changes on any replica. What the optimizer
    freezes has no part in it: its gradient is not computed, so not reduced, checked, clipped or in
    the norm.

    Args:
      loss_fn: batch -> per-example loss [B], or (loss, metrics). Metrics are per example [B] or
        scalars. A scalar loss or metric counts as the mean over the local examples, and cannot
        leave out the padding of an unequal slice: per example is exact on any number of replicas.
      variables: what is trained, `tf.Variable` or Keras variables; the optimizer may freeze some.
      optimizer: built here on `variables` if it was not built.
      clip: one of `kernels.clipping`'s, between reduction and optimizer; None for no clipping. It
        is given the gradients and variables that are not frozen.
      accumulate: micro-batches a batch is computed in; the update is one, its gradient that of the
        whole batch, reduced once. Layers that keep statistics take the mean over the micro-batches.
      precision: a `Precision` or its name: floating inputs are cast to its compute dtype. None
        leaves batch and variables as they are.
      loss_scale: of float16; a `LossScale` with its own numbers, made within the replicas' scope.
        None for the usual one where the precision needs it.
      after_update: what moves with the weights: `WeightEMA`, `Lookahead`, in this order.

    Attributes:
      state: the variables of the loss scale and of `after_update`, {} without these. A `Trainer`
        adds them to its state.

    Returns (when called with a batch, inside a compiled loop):
      The step's row: `loss`, `learning_rate`, `gradient_norm` (before the clip), `clipped`,
      `finite` (whether it was updated), with a loss scale `loss_scale` and `overflow` (whether the
      scale was halved instead of an update, which is no fault), then the metrics; scalars, equal on
      every replica.

      brings: the owners of state that a `Trainer` adds to its own where these are not in it: what
        is trained and the optimizer.

    Raises:
      TypeError: an argument of another kind; when traced, a loss or metric that is no number.
      ValueError: no variables, accumulate below 1, an optimizer built with other variables,
        variables of another dtype than the precision's, a loss scale without float16; when traced,
        a variable, not frozen, that no gradient reaches, a loss of the wrong shape, or a metric
        named as one of the row's own.
    """

    # The compiled loop then keeps no copy of what the step writes.
    reports_finite = True

    def __init__(
        self,
        loss_fn: LossFunction,
        variables: Sequence[Any],
        optimizer: Optimizer,
        *,
        clip: Callable[[Sequence[Any], Sequence[Any]], clipping.Clipped] | None = None,
        accumulate: int = 1,
        precision: Precision | str | None = None,
        loss_scale: LossScale | None = None,
        after_update: Sequence[ShadowWeights] = (),
    ) -> None:
        check_arguments(loss_fn, variables, optimizer, clip)
        if accumulate < 1:
            raise ValueError(f"GradientStep: accumulate must be at least 1, got {accumulate}")
        self.loss_fn = loss_fn
        names = [name_of(variable) for variable in variables]
        self.variables = [variable_of(variable) for variable in variables]
        self._is_trained = [not optimizer.is_frozen(name) for name in names]
        self._trained_names = list(itertools.compress(names, self._is_trained))
        self._trained = list(itertools.compress(self.variables, self._is_trained))
        self.optimizer = optimizer
        self.clip = clip
        self.accumulate = accumulate
        self.precision = None if precision is None else as_precision(precision)
        self.loss_scale = self._loss_scale_for(loss_scale, names)
        self.after_update = tuple(after_update)
        optimizer.build(variables)  # Refuses an optimizer that was built with others.
        for shadows in self.after_update:
            shadows.build(variables)
        self.brings = {
            "variables": dict(zip(names, self.variables, strict=True)),
            "optimizer": optimizer,
        }
        self.state: State = named(
            {shadows.name: shadows for shadows in self.after_update}
            | ({} if self.loss_scale is None else self.loss_scale.state)
        )

    def _loss_scale_for(self, loss_scale: LossScale | None, names: list[str]) -> LossScale | None:
        """The loss scale in use, after a check that the precision fits the variables."""
        if self.precision is not None:
            self.precision.check_variables(names, self.variables)
        if self.precision is None or not self.precision.scales_loss:
            if loss_scale is not None:
                raise ValueError(
                    "GradientStep: loss_scale is for precision='mixed_float16', got precision="
                    f"{self.precision.name if self.precision else None!r}; leave it out"
                )
            return None
        if target.default_device() == "cpu":
            _log.warning("mixed_float16 on a CPU is for tests: it computes slower than float32")
        return loss_scale or LossScale()

    def __call__(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Runs the update on this replica's slice of the batch; see the class."""
        context = step_context.current("GradientStep")
        scale = None if self.loss_scale is None else self.loss_scale.read()
        before = Before.of(context.state)
        sums, recorded = self._accumulated(batch, context, scale)
        state = self._assignable(context, recorded)
        averages, kept = statistics.assigned_since(before, state, context) if state else ([], [])
        recorded = [*recorded, *averages]
        values, weights = statistics.weighted(averages)
        sums = sums._replace(values=[*sums.values, *values], weights=[*sums.weights, *weights])
        sums = _reduced(sums)

        def update(sums: _Sums, scale: tf.Tensor | None) -> dict[str, tf.Tensor]:
            return self._update(sums, recorded, kept, context, scale)

        row: dict[str, tf.Tensor] = context.region(update)(sums, scale)
        return row

    def _assignable(self, context: StepContext, recorded: list[MovingAverage]) -> State:
        """The state, if any of it could be assigned by the forward pass; else {}.

        What this step itself updates is not: without more than that, no trace has to be read.
        """
        own = [*self.variables, *self.optimizer.state.values(), *self.state.values()]
        known = {id(v) for v in [*own, *(average.variable for average in recorded)]}
        others = any(id(variable) not in known for variable in context.state.values())
        return dict(context.state) if others else {}

    def gradients(self, batch: Batch) -> tuple[tf.Tensor, dict[str, Any]]:
        """The loss of this replica's slice, and its gradient by variable that is not frozen.

        Updates nothing.
        """
        context = step_context.current("GradientStep")
        scale = None if self.loss_scale is None else self.loss_scale.read()
        sums, _ = self._accumulated(batch, context, scale)
        return sums.loss, dict(zip(self._trained_names, sums.gradients, strict=True))

    def losses(self, batch: Batch) -> tf.Tensor | None:
        """The loss of each example of this replica's slice, [B]; None if it is a scalar."""
        context = step_context.current("GradientStep")
        if self.precision is not None:
            batch = self.precision.cast(batch)
        parts = []
        for index in range(self.accumulate):
            piece, inner = batch, context
            if self.accumulate > 1:
                piece, inner = micro_batch(batch, context, self.accumulate, index)
            with step_context.within(inner):
                losses, _ = loss_and_metrics(self.loss_fn, piece)
            parts.append(tf.convert_to_tensor(losses))
        return tf.concat(parts, 0) if parts[0].shape.rank else None

    def _update(
        self,
        sums: _Sums,
        recorded: list[MovingAverage],
        kept: list[statistics.Assigned],
        context: StepContext,
        scale: tf.Tensor | None,
    ) -> dict[str, tf.Tensor]:
        if scale is not None:
            sums = sums._replace(gradients=unscale_gradients(sums.gradients, scale))
        clipped = clip_gradients(sums.gradients, self._trained, self.clip)
        # An id without a row is a fault of the batch, as is a loss that is not finite: no loss
        # scale would correct it.
        sound = tf.math.is_finite(sums.loss) & rows_exist(sums.gradients, self._trained)
        finite = sound & tf.math.is_finite(clipped.norm)
        # Before the optimizer, which goes on from what a layer assigned (SpectralNormalization
        # its kernel).
        for average, value, weight in zip(recorded, sums.values, sums.weights, strict=True):
            statistics.commit(average, value, weight, finite)
        for assigned in kept:
            assigned.keep_if(finite)
        given = iter(clipped.gradients)
        every = [next(given) if trained else None for trained in self._is_trained]
        self.optimizer.apply(every, global_step=context.global_step, finite=finite)
        for shadows in self.after_update:
            shadows.apply(finite)
        row = {
            "loss": sums.loss,
            "learning_rate": self.optimizer.learning_rate_at(context.global_step),
            "gradient_norm": clipped.norm,
            "clipped": clipped.clipped,
            "finite": finite,
        }
        if self.loss_scale is not None and scale is not None:
            row["loss_scale"] = scale
            row["overflow"] = self.loss_scale.update(
                scale,
                loss_finite=sound,
                gradients_finite=tf.math.is_finite(clipped.norm),
            )
        taken = [name for name in sums.metrics if name in row]
        if taken:
            raise ValueError(
                f"GradientStep: the metric {taken[0]!r} has the name of one of the row's own "
                f"({', '.join(row)}); give it another"
            )
        return {**row, **sums.metrics}

    def _accumulated(
        self, batch: Batch, context: StepContext, scale: tf.Tensor | None
    ) -> tuple[_Sums, list[MovingAverage]]:
        """The sums over this replica's micro-batches, and whose values the statistics are."""
        recorded: list[MovingAverage] = []

        def compute(piece: Batch) -> _Sums:
            sums, found = self._forward_backward(piece, step_context.current("GradientStep"), scale)
            recorded[:] = recorded or found
            return sums

        with step_context.within(context):
            sums: _Sums = accumulate(compute, batch, self.accumulate)
        return sums, recorded

    def _forward_backward(
        self, batch: Batch, context: StepContext, scale: tf.Tensor | None
    ) -> tuple[_Sums, list[MovingAverage]]:
        recorded: list[MovingAverage] = []

        def compute(batch: Batch, scale: tf.Tensor | None) -> _Sums:
            reduce = step_context.current("GradientStep").all_reduce_sum  # a region refuses it
            inner = dataclasses.replace(
                context, all_reduce_sum=reduce, moving_averages=[], collectives=0
            )
            with step_context.within(inner):
                sums = self._sums(batch, inner, scale)
            recorded.extend(inner.moving_averages)
            context.collectives += inner.collectives
            return sums

        sums: _Sums = context.region(compute)(batch, scale)
        return sums, recorded

    def _sums(self, batch: Batch, context: StepContext, scale: tf.Tensor | None) -> _Sums:
        if self.precision is not None:
            batch = self.precision.cast(batch)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._trained)
            losses, metrics = loss_and_metrics(self.loss_fn, batch)
            loss = mean_share(losses, "loss")
            scaled = loss if scale is None else loss * tf.cast(scale, loss.dtype)
        gradients = tape.gradient(scaled, self._trained)
        missing = [
            name
            for name, gradient in zip(self._trained_names, gradients, strict=True)
            if gradient is None
        ]
        if missing:
            raise ValueError(
                f"GradientStep: no gradient of the loss reaches {', '.join(missing)}; use them in "
                "the loss or leave them out of `variables`"
            )
        averages = context.moving_averages
        return _Sums(
            gradients,
            loss,
            {
                # In the loss's dtype, so that everything fits one packed collective.
                name: tf.cast(mean_share(value, name), loss.dtype)
                for name, value in metrics.items()
            },
            *statistics.weighted(averages),
        )


def _reduced(sums: _Sums) -> _Sums:
    """The sums over the replicas, everything in one collective."""
    flat = [*sums.gradients, sums.loss, *sums.metrics.values(), *sums.values, *sums.weights]
    flat = reduce_sum(flat)
    taken = iter(flat)
    return _Sums(
        [next(taken) for _ in sums.gradients],
        next(taken),
        {name: next(taken) for name in sums.metrics},
        [next(taken) for _ in sums.values],
        [next(taken) for _ in sums.weights],
    )
