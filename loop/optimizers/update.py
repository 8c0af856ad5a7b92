"""One update of all variables: read, apply the rule, write back.

Everything is read and written through the variable's handle, never through `assign`: inside
`strategy.run` the handle is this replica's copy, the gradients are reduced already and equal on all
replicas, and tf.distribute's own assign would reduce or refuse a second time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import tensorflow as tf

from kernels import sparse, target
from loop.optimizers.trained import Gradient, Scalars, Slots, Trained, read

if TYPE_CHECKING:
    from loop.optimizers.base import Optimizer

Handles = Mapping[str, tf.Tensor]

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
        the scalars those of `Optimizer.idle`.
    """

    finite: tf.Tensor
    form: Literal["select", "idle"]


def can_idle(optimizer: Optimizer, pairs: Sequence[tuple[Trained, Gradient]]) -> bool:
    """Whether an update in graph mode should be skipped by `Skip.form` "idle", not by a branch.

    On a GPU always where the family can: a branch would wait for the check to reach the host.
    """
    dense = not any(isinstance(gradient, tf.IndexedSlices) for _, gradient in pairs)
    if optimizer.idle is None or not dense:
        return False
    elements = sum(trained.variable.shape.num_elements() for trained, _ in pairs)
    return target.current().device == "gpu" or elements < _BRANCH_FROM


class Update:
    """One traced update: its scalars are computed once and shared by the variables.

    Args:
      optimizer: whose rule is applied.
      learning_rate: float64 scalar.
      count: resource of the int64 count of applied updates; it is advanced here.
      skip: when and how every value stays as it was; None updates always.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        learning_rate: tf.Tensor,
        count: tf.Tensor,
        skip: Skip | None,
    ) -> None:
        self._optimizer = optimizer
        self._learning_rate = learning_rate
        self._select = skip.finite if skip and skip.form == "select" else None
        self._applied = skip.finite if skip and skip.form == "idle" else None
        done = read(count, tf.int64, tf.TensorShape([]))
        self._count = tf.cast(done + 1, tf.float64)
        increment = tf.cast(skip.finite, tf.int64) if skip else tf.ones([], tf.int64)
        tf.raw_ops.AssignVariableOp(resource=count, value=done + increment)
        self._scalars: dict[tuple[float, tf.DType], Scalars] = {}

    def run(
        self,
        pairs: Sequence[tuple[Trained, Gradient]],
        handles: Sequence[tf.Tensor],
        slot_handles: Sequence[Handles],
    ) -> None:
        """Updates every variable of `pairs`, whose gradient is not None."""
        for (trained, gradient), handle, slots in zip(pairs, handles, slot_handles, strict=True):
            if not isinstance(gradient, tf.IndexedSlices):
                self._update(trained, handle, slots, tf.cast(gradient, trained.dtype))
            elif self._optimizer.sparse_for(trained) == "exact":
                dense = _densified(gradient, trained)
                self._update(trained, handle, slots, dense)
            else:
                self._update_rows(trained, handle, slots, gradient)

    def _update(
        self, trained: Trained, handle: tf.Tensor, slots: Handles, gradient: tf.Tensor
    ) -> None:
        """Updates all elements."""
        if self._applied is not None:
            gradient = tf.math.multiply_no_nan(gradient, tf.cast(self._applied, gradient.dtype))
        if self._fusable(trained):
            self._update_fused(trained, handle, slots, gradient)
            return
        shape = trained.variable.shape
        old = read(handle, trained.variable.dtype, shape)
        old_slots = {name: read(slot, trained.dtype, shape) for name, slot in slots.items()}
        new, new_slots = self._apply_rule(trained, old, old_slots, gradient)
        tf.raw_ops.AssignVariableOp(resource=handle, value=new)
        for name, slot in slots.items():
            tf.raw_ops.AssignVariableOp(resource=slot, value=new_slots[name])

    def _fusable(self, trained: Trained) -> bool:
        """Whether TensorFlow's fused operation is the faster form: outside XLA, same dtypes."""
        compiler = target.current().compiler
        if self._select is not None or compiler == "xla" or not self._optimizer.has_fused:
            return False
        large = trained.variable.shape.num_elements() >= FUSED_FROM
        return trained.variable.dtype == trained.dtype and (large or compiler == "eager")

    def _update_fused(
        self, trained: Trained, handle: tf.Tensor, slots: Handles, gradient: tf.Tensor
    ) -> None:
        scalars = self._scalars_for(trained)
        if self._decays(trained):
            old = read(handle, trained.dtype, trained.variable.shape)
            decay = scalars["learning_rate"] * trained.weight_decay * old
            tf.raw_ops.AssignSubVariableOp(resource=handle, value=decay)
        self._optimizer.fused(handle, slots, gradient, scalars)

    def _decays(self, trained: Trained) -> bool:
        return self._optimizer.decoupled_decay and trained.weight_decay != 0

    def _update_rows(
        self, trained: Trained, handle: tf.Tensor, slots: Handles, gradient: tf.IndexedSlices
    ) -> None:
        """Updates the gradient's rows alone, in the variable and in its slots."""
        rows = sparse.row_totals(gradient)
        indices = rows.indices

        def gather(resource: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
            return tf.raw_ops.ResourceGather(resource=resource, indices=indices, dtype=dtype)

        def scatter(resource: tf.Tensor, values: tf.Tensor) -> None:
            tf.raw_ops.ResourceScatterUpdate(resource=resource, indices=indices, updates=values)

        old = gather(handle, trained.variable.dtype)
        old_slots = {name: gather(slot, trained.dtype) for name, slot in slots.items()}
        values = tf.cast(rows.values, trained.dtype)
        new, new_slots = self._apply_rule(trained, old, old_slots, values)
        scatter(handle, new)
        for name, slot in slots.items():
            scatter(slot, new_slots[name])

    def _apply_rule(
        self, trained: Trained, old: tf.Tensor, old_slots: Slots, gradient: tf.Tensor
    ) -> tuple[tf.Tensor, Slots]:
        """The rule with the decay before it and the choice of new or old in it."""
        scalars = self._scalars_for(trained)
        parameter = tf.cast(old, trained.dtype)
        if self._decays(trained):
            parameter -= scalars["learning_rate"] * trained.weight_decay * parameter
        new, new_slots = self._optimizer.rule(
            trained, parameter, gradient, old_slots, scalars, self._keep
        )
        return self._keep(tf.cast(new, old.dtype), old), new_slots

    def _keep(self, new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
        """The new value, or the old one where the update is skipped."""
        return new if self._select is None else tf.where(self._select, new, old)

    def _scalars_for(self, trained: Trained) -> Scalars:
        key = (trained.multiplier, trained.dtype)
        if key not in self._scalars:
            rate = self._learning_rate * trained.multiplier
            own = self._optimizer.scalars(rate, self._count, trained.dtype)
            scalars = {"learning_rate": rate, **own}
            self._scalars[key] = {
                name: self._or_idle(name, tf.cast(value, trained.dtype))
                for name, value in scalars.items()
            }
        return self._scalars[key]

    def _or_idle(self, name: str, value: tf.Tensor) -> tf.Tensor:
        """The scalar, or where the update is skipped the value at which the rule stands still."""
        idle = self._optimizer.idle
        if self._applied is None or idle is None or name not in idle:
            return value
        return tf.where(self._applied, value, tf.constant(idle[name], value.dtype))


def _densified(gradient: tf.IndexedSlices, trained: Trained) -> tf.Tensor:
    """The gradient with zeros in the rows that it lacks."""
    values = tf.cast(gradient.values, trained.dtype)
    rows = trained.variable.shape[0]
    return tf.math.unsorted_segment_sum(values, gradient.indices, rows)
