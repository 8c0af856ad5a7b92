"""A second set of weights beside the trained ones, moved after every update."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from loop.distribute import Replicas
from loop.handles import read, write
from loop.run.signals import held_back
from loop.variables import State, name_of, variable_of


class ShadowWeights(abc.ABC):
    """Variables shaped like the trained ones: averages, slow weights.

    Give it to `GradientStep(after_update=...)`, which builds it, calls `apply` after the optimizer,
    and puts its state into the step's.

    Attributes:
      name: the heading of its variables in the step's state.
      state: variable name -> shadow, and "update_count" (int64: updates seen).
    """

    name: str

    def __init__(self) -> None:
        self._pairs: list[tuple[tf.Variable, tf.Variable]] = []
        self._names: list[str] = []
        self._count: tf.Variable | None = None
        self._exchange: Any = None

    def build(self, variables: Sequence[Any]) -> None:
        """Creates the shadows, equal to the variables as they are; in the replicas' scope.

        Raises:
          ValueError: if it was built before: each step has shadows of its own.
        """
        if self._pairs:
            raise ValueError(
                f"{type(self).__name__}: belongs to another step already; make one for each"
            )
        self._names = [name_of(variable) for variable in variables]
        self._count = tf.Variable(0, dtype=tf.int64, trainable=False, name=f"{self.name}/count")
        for name, variable in zip(self._names, map(variable_of, variables), strict=True):
            shadow = tf.Variable(
                tf.convert_to_tensor(variable), trainable=False, name=f"{self.name}/{name}"
            )
            self._pairs.append((variable, shadow))

    @property
    def state(self) -> State:
        """The variables by name; {} before `build`."""
        if self._count is None:
            return {}
        shadows = {name: pair[1] for name, pair in zip(self._names, self._pairs, strict=True)}
        return {**shadows, "update_count": self._count}

    def apply(self, finite: tf.Tensor) -> None:
        """Moves the shadows after an update; within a step, on every replica.

        Args:
          finite: bool scalar; where False the step made no update, and nothing moves.
        """
        if self._count is None:
            raise RuntimeError(f"{type(self).__name__}: call build(variables) before tracing")
        count = read(self._count) + tf.cast(finite, tf.int64)
        write(self._count, count)
        self.move(self._pairs, count, finite)

    @abc.abstractmethod
    def move(
        self,
        pairs: Sequence[tuple[tf.Variable, tf.Variable]],
        count: tf.Tensor,
        finite: tf.Tensor,
    ) -> None:
        """Moves each (variable, shadow); `count` is the number of updates, this one included."""

    def reset(self) -> None:
        """Starts again from the variables as they are (after another run's were put in)."""
        for variable, shadow in self._pairs:
            shadow.assign(variable)
        if self._count is not None:
            self._count.assign(0)

    @contextlib.contextmanager
    def swapped(self, replicas: Replicas) -> Iterator[None]:
        """Exchanges variables and shadows inside the `with` block, to the bit; from the host.

        What was traced with the variables then computes with the shadows; nothing is traced again.
        """
        if self._exchange is None:
            self._exchange = tf.function(lambda: replicas.run(self._exchanged), autograph=False)
        exchanged = False
        try:
            with held_back():  # An interrupt just after it would leave the shadows in place.
                self._exchange()
                exchanged = True
            yield
        finally:
            if exchanged:
                with held_back():
                    self._exchange()

    def _exchanged(self) -> None:
        for variable, shadow in self._pairs:
            first, second = read(variable), read(shadow)
            write(variable, second)
            write(shadow, first)
