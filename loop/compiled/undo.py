"""Puts back what a step wrote where it is not finite, for steps that do not decide it themselves.

A step function that reports no `finite` has written its new values before anybody looked at them.
What it wrote is read from its part of the trace; where a scalar of its row or one of the new values
is not finite, the values from before the step are assigned again. To check only the row would not
do: in graph mode a fused operation may give a finite loss and gradients that are NaN.

The price is a copy of what the step writes in graph mode, and a select after the update under XLA:
1.2 to 1.4 times the step (docs/measurements/finite_check.md). A step that checks its gradients by
`loop.all_finite` and passes the answer to `optimizer.apply(finite=)` and in its row does not pay.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import tensorflow as tf

from kernels import target
from loop.compiled import trace
from loop.handles import read_handle, write_handle


@dataclasses.dataclass(frozen=True)
class Before:
    """The state before a step, on this replica.

    Attributes:
      handles: name -> the resource of this replica's copy.
      values: name -> its value. Those that the step does not write are never computed.
      graph: the graph that is being traced; None in eager mode.
      operations: how many operations it had.
    """

    handles: dict[str, tf.Tensor]
    values: dict[str, tf.Tensor]
    graph: tf.Graph | None
    operations: int

    @classmethod
    def of(cls, state: Mapping[str, tf.Variable]) -> Before:
        """Reads the state; to be called before the step."""
        handles = {name: variable.handle for name, variable in state.items()}
        values = {
            name: read_handle(handle, state[name].dtype, state[name].shape)
            for name, handle in handles.items()
        }
        if tf.executing_eagerly():
            return cls(handles, values, None, 0)
        graph = tf.compat.v1.get_default_graph()
        return cls(handles, values, graph, len(graph.get_operations()))

    def only(self, names: Iterable[str]) -> Before:
        """Some of the variables."""
        names = list(names)
        return dataclasses.replace(
            self,
            handles={name: self.handles[name] for name in names},
            values={name: self.values[name] for name in names},
        )

    def put_back(self, names: Iterable[str], finite: tf.Tensor) -> None:
        """Restores variables that the step wrote, where `finite` is False."""
        for name in names:
            old = self.values[name]
            new = read_handle(self.handles[name], old.dtype, old.shape)
            write_handle(self.handles[name], tf.where(finite, new, old))

    def put_back_unless_finite(
        self, reported: Iterable[tf.Tensor], agreed: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """Restores what the step wrote where it is not finite; to be called after the step.

        Args:
          reported: what is to be finite besides, the step's row and its statistics.
          agreed: this replica's bool scalar -> whether it is true on every replica.

        Returns:
          Whether the step was finite on every replica, a bool scalar.
        """
        written = self.written()
        checked = [*reported, *(new for _, new in written.values())]
        finite = agreed(
            tf.reduce_all(
                [
                    tf.reduce_all(tf.math.is_finite(value))
                    for value in checked
                    if value.dtype.is_floating or value.dtype.is_complex
                ]
            )
        )

        def assign(values: dict[str, tf.Tensor]) -> None:
            for name, value in values.items():
                write_handle(self.handles[name], value)

        if target.current().compiler == "xla":
            # A select is fused into the update; a branch would copy every variable.
            assign({name: tf.where(finite, new, old) for name, (old, new) in written.items()})
        elif written:
            before = {name: old for name, (old, _) in written.items()}
            tf.cond(finite, lambda: None, lambda: assign(before))
        return finite

    def written(self) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """What was written since: name -> its value before and now, on this replica.

        The trace tells it; in eager mode, which has none, a value that differs.
        """
        old = self.values
        if self.graph is not None:
            inputs = trace.written_since(self.graph, self.operations) if old else set()
            old = {n: value for n, value in old.items() if value.op.inputs[0].op.name in inputs}
        both = {
            name: (value, read_handle(self.handles[name], value.dtype, value.shape))
            for name, value in old.items()
        }
        if self.graph is not None:
            return both
        return {name: (o, n) for name, (o, n) in both.items() if not tf.reduce_all(o == n)}
