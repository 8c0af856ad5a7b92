"""Keras's metrics as metrics of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import tensorflow as tf

from loop.metrics.metric import Additive, State, Values, value_of


class KerasMetric(Additive):
    """A `keras.metrics.Metric`, through its stateless interface: its variables are never written.

    What they hold is added up over batches' states and replicas; Keras's own metrics are all
    quotients and functions of such sums. Keras sums in float32 unless the metric is made with
    `dtype="float64"`.

        metrics={"auc": KerasMetric(keras.metrics.AUC(), "label", "score", "weight")}

    Args:
      metric: the metric, with no state that is not zero when reset.
      arguments: names of the values that `update_state` is given, in its order: the labels, the
        predictions, and the sample weights if there are any, [B] or of the predictions' rank as
        Keras takes them.

    Attributes:
      is_built: whether the metric's variables are there; from the first batch traced on.

    Raises:
      TypeError: if it is no Keras metric, or its `update_state` takes no `sample_weight`, which
        masks the padding.
      ValueError: on no arguments, or more than `update_state` takes; when traced, if its reset
        state is not zero and so does not add.
    """

    def __init__(self, metric: Any, *arguments: str) -> None:
        methods = ("stateless_update_state", "stateless_result", "reset_state")
        if not all(callable(getattr(metric, name, None)) for name in methods):
            raise TypeError(
                f"KerasMetric: expected a keras.metrics.Metric, found {type(metric).__name__}"
            )
        if not arguments:
            raise ValueError("KerasMetric: expected the names of update_state's arguments")
        code = type(metric).update_state.__code__
        takes = code.co_varnames[1 : code.co_argcount]
        if "sample_weight" not in takes:
            raise TypeError(
                f"KerasMetric: {type(metric).__name__}.update_state expected to take "
                "sample_weight, by which padding is left out"
            )
        if len(arguments) > len(takes):
            raise ValueError(
                f"KerasMetric: {type(metric).__name__}.update_state takes {', '.join(takes)}; "
                f"found {len(arguments)} names of values, {', '.join(map(repr, arguments))}"
            )
        self.metric = metric
        given = dict(zip(takes, arguments, strict=False))
        self._weight = given.pop("sample_weight", None)
        self.arguments: Sequence[str] = tuple(given.values())
        self.is_built = False

    def empty(self) -> State:
        """Zeros like the metric's variables."""
        return {
            str(number): tf.zeros(variable.shape, variable.dtype)
            for number, variable in enumerate(self.metric.variables)
        }

    def of(self, values: Values, mask: tf.Tensor) -> State:
        """What `update_state` makes of zeros."""
        given = [value_of(values, name, "KerasMetric", mask) for name in self.arguments]
        if not self.is_built:
            self._build(given)
        weight = tf.cast(mask, self.metric.dtype)
        if self._weight is not None:
            own = value_of(values, self._weight, "KerasMetric", mask)
            kept = tf.reshape(mask, [-1] + [1] * (own.shape.rank - 1))
            # No product: 0 times a padding's NaN is NaN.
            weight = tf.where(kept, tf.cast(own, weight.dtype), tf.zeros([], weight.dtype))
        state = self.metric.stateless_update_state(
            list(self.empty().values()), *given, sample_weight=weight
        )
        return {str(number): tf.convert_to_tensor(value) for number, value in enumerate(state)}

    def _build(self, given: Sequence[tf.Tensor]) -> None:
        """Has the metric make its variables, some of which wait for the first shapes."""
        with tf.init_scope():
            if not self.metric.variables:
                self.metric.update_state(*(tf.zeros(part.shape, part.dtype) for part in given))
            self.metric.reset_state()
            for variable in self.metric.variables:
                if tf.math.count_nonzero(variable.value).numpy():
                    raise ValueError(
                        f"KerasMetric: {variable.path} expected to be zero when reset: states are "
                        "added over batches and replicas"
                    )
        self.is_built = True

    def compute(self, state: Mapping[str, npt.NDArray[Any]]) -> Any:
        """Keras's result: a number, an array, or a dict of these."""
        return self.metric.stateless_result([tf.constant(value) for value in state.values()])
