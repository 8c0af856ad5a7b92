"""One update of all variables: read, apply the rule, write back.

Everything is read and written through the variable's handle, never through `assign`: inside
`strategy.run` the handle is this replica's copy, the gradients are reduced already and equal on all
replicas, and tf.distribute's own assign would reduce or refuse a second time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import tensorflow as tf

from kernels import sparse, target
from loop.optimizers.trained import Gradient, Trained, read

Pairs = Sequence[tuple[Trained, Gradient]]
Scalars = dict[str, tf.Tensor]

# Elements from which a fused operation is faster than the rule's plain ones in graph mode. Below,
# its locks and its share of the thread pool cost more than the passes it saves: Adam on 1,000
# elements takes half the time by plain operations, on 256,000 twice the time.
FUSED_FROM = 16_384

# Elements from which a branch around the update costs a CPU no more than zeros in the gradients. On
# 21,000 (the CNN at 8x8) it is 2.6 % of a step and the zeros 1.3 %, on 50,000 they are equal.
_BRANCH_FROM = 32_768


@dataclasses.dataclass(frozen=True)
class Skip:
    """How an update leaves everything as it was where `finite` is False, without a branch.

    Attributes:
      finite: bool scalar.
      form: "select": new or old is chosen for every element. "idle": the gradients become zeros and
        the scalars those of `Rule.idle`.
    """

    finite: tf.Tensor
    form: Literal["select", "idle"]


def can_idle(pairs: Pairs) -> bool:
    """Whether an update in graph mode should be skipped by `Skip.form` "idle", not by a branch.

    On a GPU always where all rules can: a branch would wait for the check to reach the host.
    """
    if any(trained.rule.idle is None or _is_sparse(gradient) for trained, gradient in pairs):
        return False
    elements = sum(trained.variable.shape.num_elements() for trained, _ in pairs)
    return target.current().device == "gpu" or elements < _BRANCH_FROM


class Update:
    """One traced update: its scalars are computed once and shared by the variables.

    Args:
      learning_rate: float64 scalar.
      count: resource of the int64 count of applied updates; it is advanced here.
      skip: when and how every value stays as it was; None updates always.
    """

    def __init__(self, learning_rate: tf.Tensor, count: tf.Tensor, skip: Skip | None) -> None:
        self._learning_rate = learning_rate
        self._select = skip.finite if skip and skip.form == "select" else None
        self._applied = skip.finite if skip and skip.form == "idle" else None
        done = read(count, tf.int64, tf.TensorShape([]))
        self._count = tf.cast(done + 1, tf.float64)
        increment = tf.cast(skip.finite, tf.int64) if skip else tf.ones([], tf.int64)
        tf.raw_ops.AssignVariableOp(resource=count, value=done + increment)
        self._scalars: dict[Any, tuple[tf.Tensor, Scalars]] = {}

    def run(
        self,
        pairs: Pairs,
        handles: Sequence[tf.Tensor],
        slot_handles: Sequence[Sequence[tf.Tensor]],
    ) -> None:
        """Updates every variable of `pairs`, whose gradient is not None."""
        for (trained, gradient), handle, slots in zip(pairs, handles, slot_handles, strict=True):
            if not _is_sparse(gradient):
                self._update(trained, handle, slots, tf.cast(gradient, trained.dtype))
            elif trained.exact:
                self._update(trained, handle, slots, _densified(gradient, trained))
            else:
                self._update_rows(trained, handle, slots, gradient)

    def _update(
        self,
        trained: Trained,
        handle: tf.Tensor,
        slots: Sequence[tf.Tensor],
        gradient: tf.Tensor,
    ) -> None:
        """Updates all elements."""
        if self._applied is not None:
            gradient = tf.math.multiply_no_nan(gradient, tf.cast(self._applied, gradient.dtype))
        variable, fused = trained.variable, trained.rule.fused
        if fused is not None and self._is_fused_faster(trained):
            rate, scalars = self._scalars_for(trained)
            if trained.decay:
                old = read(handle, trained.dtype, variable.shape)
                tf.raw_ops.AssignSubVariableOp(resource=handle, value=rate * trained.decay * old)
            fused(handle, gradient, *slots, **scalars)
            return
        old = read(handle, variable.dtype, variable.shape)
        old_slots = [read(slot, trained.dtype, variable.shape) for slot in slots]
        new = self._apply_rule(trained, gradient, old, old_slots)
        for resource, value in zip([handle, *slots], new, strict=True):
            tf.raw_ops.AssignVariableOp(resource=resource, value=value)

    def _is_fused_faster(self, trained: Trained) -> bool:
        """Whether a fused operation may take the rule's place and is faster: not under XLA."""
        compiler = target.current().compiler
        if self._select is not None or compiler == "xla":
            return False
        large = trained.variable.shape.num_elements() >= FUSED_FROM
        return trained.variable.dtype == trained.dtype and (large or compiler == "eager")

    def _update_rows(
        self,
        trained: Trained,
        handle: tf.Tensor,
        slots: Sequence[tf.Tensor],
        gradient: tf.IndexedSlices,
    ) -> None:
        """Updates only the gradient's rows, in the variable and in its slots."""
        rows = sparse.row_totals(gradient)

        def gather(resource: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
            return tf.raw_ops.ResourceGather(resource=resource, indices=rows.indices, dtype=dtype)

        old = gather(handle, trained.variable.dtype)
        old_slots = [gather(slot, trained.dtype) for slot in slots]
        values = tf.cast(rows.values, trained.dtype)
        new = self._apply_rule(trained, values, old, old_slots)
        for resource, value in zip([handle, *slots], new, strict=True):
            tf.raw_ops.ResourceScatterUpdate(resource=resource, indices=rows.indices, updates=value)

    def _apply_rule(
        self,
        trained: Trained,
        gradient: tf.Tensor,
        old: tf.Tensor,
        old_slots: Sequence[tf.Tensor],
    ) -> list[tf.Tensor]:
        """The new parameter and slots: decay, then the rule with the choice of new or old in it."""
        rate, scalars = self._scalars_for(trained)
        parameter = tf.cast(old, trained.dtype)
        if trained.decay:
            parameter -= rate * trained.decay * parameter
        new, *new_slots = trained.rule.function(
            parameter, gradient, *old_slots, **scalars, keep=self._keep
        )
        return [self._keep(tf.cast(new, old.dtype), old), *new_slots]

    def _keep(self, new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
        """The new value, or the old one where the update is skipped."""
        return new if self._select is None else tf.where(self._select, new, old)

    def _scalars_for(self, trained: Trained) -> tuple[tf.Tensor, Scalars]:
        """The learning rate and the rule's scalars, made once for all variables that share them."""
        rule, dtype = trained.rule, trained.dtype
        key = (trained.multiplier, dtype, rule.derived, *rule.constants.items())
        if key not in self._scalars:
            rate = self._learning_rate * trained.multiplier
            own = {**rule.constants, **rule.derived(rate, self._count, dtype)}
            idle = {"learning_rate": 0.0, **(rule.idle or {})}
            ready = {
                name: self._or_idle(
                    tf.cast(tf.convert_to_tensor(value, tf.float64), dtype), idle.get(name)
                )
                for name, value in {"learning_rate": rate, **own}.items()
            }
            self._scalars[key] = ready["learning_rate"], {name: ready[name] for name in own}
        return self._scalars[key]

    def _or_idle(self, value: tf.Tensor, idle: float | None) -> tf.Tensor:
        """The scalar, or its idle value where the update is skipped."""
        if self._applied is None or idle is None:
            return value
        return tf.where(self._applied, value, tf.constant(idle, value.dtype))


def _is_sparse(gradient: Gradient) -> bool:
    return isinstance(gradient, tf.IndexedSlices)


def _densified(gradient: tf.IndexedSlices, trained: Trained) -> tf.Tensor:
    """The gradient with zeros in the rows that it lacks."""
    values = tf.cast(gradient.values, trained.dtype)
    rows = trained.variable.shape[0]
    return tf.math.unsorted_segment_sum(values, gradient.indices, rows)
