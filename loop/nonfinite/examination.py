"""What was not finite in a step: its forward and backward pass once more, eagerly.

A run that stops at a step has the state of the step before, and a step is a pure function of
(state, seed, step); so the step that failed can be computed again, and nothing of this is paid for
by steps that do not fail.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kernels import target
from loop.checkpoint.values import assign, copy_to_host
from loop.compiled.compiled_loop import Outcome
from loop.distribute import Replicas
from loop.feeds import Batch, Feed
from loop.feeds.nest import named_leaves
from loop.nonfinite.origins import Origin, Watch, all_finite, is_number
from loop.single_step import SingleStep
from loop.step_context import StepContext
from loop.variables import State, components

_log = logging.getLogger(__name__)

_LISTED = 8

StepFunction = Callable[[Batch], Mapping[str, Any]]


class GradientsOf(Protocol):
    """A step that can tell its loss and gradients without an update, as `GradientStep` does.

    One that has a method `losses` too (batch -> the loss of each example [B], or None) tells which
    examples' are not finite.
    """

    def gradients(self, batch: Batch) -> tuple[tf.Tensor, dict[str, Any]]:
        """The loss, and the gradient of each variable by its name."""


@dataclasses.dataclass(frozen=True)
class Findings:
    """What was not finite in a step.

    Attributes:
      step: finished steps before it.
      state: the names of the variables that were not finite before it.
      batch: entry of the batch -> the positions of the examples that are not finite in it.
      loss: of the step; None where the step function does not tell.
      variables: the names of the variables whose gradients are not finite; None where the step
        function does not tell its gradients.
      examples: the positions of the examples whose loss is not finite; None where the step function
        does not tell.
      origins: with `trace`: the operations that made a value that is not finite out of finite ones,
        in order; without those that did the same in a step that is finite, if others are left.
    """

    step: int
    state: tuple[str, ...]
    batch: dict[str, tuple[int, ...]]
    loss: float | None
    variables: tuple[str, ...] | None
    examples: tuple[int, ...] | None = None
    origins: tuple[Origin, ...] = ()

    @property
    def finite(self) -> bool:
        """Whether nothing was found."""
        loss_finite = self.loss is None or bool(np.isfinite(self.loss))
        return loss_finite and not (self.state or self.batch or self.variables or self.origins)


@dataclasses.dataclass(frozen=True)
class Examiner:
    """Computes steps again to find what in them is not finite.

    Attributes:
      function: the step, batch -> dict of scalars. One with a method `gradients` (see
        `GradientsOf`) tells the gradients and changes nothing; any other is run whole and what it
        changed is put back.
      feed: the source of its batches.
      state: name -> variable, everything that it may change.
      replicas: where the variables are; the whole batch is computed on the first one.
      hooks: called at its start (Keras's seeds).
    """

    function: StepFunction
    feed: Feed
    state: State
    replicas: Replicas
    hooks: Sequence[Callable[[StepContext], None]] = ()

    def examine(self, number: int, *, trace: bool = False) -> Findings:
        """Computes step `number` eagerly from the current state, which stays as it is.

        Args:
          number: finished steps before it.
          trace: look at every operation; some thousand times slower.
        """
        saved = copy_to_host(self.state)
        state = tuple(name for name, value in saved.items() if not all_finite(value))
        try:
            with self._first_replica():
                if not trace:
                    batch, loss, gradients = self._run(number)
                    found = _findings(number, state, batch, loss, gradients)
                    assign(self.state, saved)
                    return dataclasses.replace(found, examples=self._examples(number))
                batch, loss, gradients, origins = self._traced(number)
                found = _findings(number, state, batch, loss, gradients)
                if found.finite:
                    return found
                assign(self.state, saved)
                found = dataclasses.replace(found, examples=self._examples(number))
                assign(self.state, saved)
                # Any other batch; an earlier one, since a data set may end.
                kept = self._without_meant(origins, number - 1 if number else 1)
                return dataclasses.replace(found, origins=tuple(kept))
        finally:
            assign(self.state, saved)

    @contextlib.contextmanager
    def _first_replica(self) -> Iterator[None]:
        strategy = self.replicas.strategy
        if strategy is None:
            yield
            return
        first = self.replicas.local_ids[0]
        with strategy.scope(), tf.distribute.ReplicaContext(strategy, first):
            yield

    def _without_meant(self, origins: list[Origin], other_step: int) -> list[Origin]:
        """Leaves out the infinities that are meant: a mask, a logarithm that a select drops."""
        batch, loss, gradients, usual = self._traced(other_step)
        if not _findings(other_step, (), batch, loss, gradients).finite:
            return origins
        meant = {origin.key for origin in usual}
        # None other: then the step let one of those through.
        return [origin for origin in origins if origin.key not in meant] or origins

    def _traced(
        self, number: int
    ) -> tuple[Batch, tf.Tensor | None, dict[str, Any] | None, list[Origin]]:
        names = {
            component.handle._id: name
            for name, variable in self.state.items()
            for component in components(variable)
        }
        watch = Watch(names)
        with watch.watching():
            batch, loss, gradients = self._run(number)
        return batch, loss, gradients, watch.origins

    def _run(self, number: int) -> tuple[Batch, tf.Tensor | None, dict[str, Any] | None]:
        with self._batch(number) as batch:
            gradients = getattr(self.function, "gradients", None)
            if gradients is not None:
                loss, by_name = gradients(batch)
                return batch, loss, by_name
            row = self.function(batch)
            return batch, row.get("loss"), None

    def _examples(self, number: int) -> tuple[int, ...] | None:
        """The positions of the examples whose loss is not finite."""
        losses_of = getattr(self.function, "losses", None)
        if losses_of is None:
            return None
        with self._batch(number) as batch:
            losses = losses_of(batch)
        return None if losses is None else _rows_not_finite(losses.numpy())

    @contextlib.contextmanager
    def _batch(self, number: int) -> Iterator[Batch]:
        """The batch of a step; inside it is that step's context."""
        accumulate = getattr(self.function, "accumulate", 1)
        step = SingleStep(self.feed, number, accumulate=accumulate, hooks=self.hooks)
        with target.tracing_for("eager"), step.batch() as batch:
            yield batch


def _findings(
    step: int,
    state: tuple[str, ...],
    batch: Batch,
    loss: tf.Tensor | None,
    gradients: Mapping[str, Any] | None,
) -> Findings:
    variables = None
    if gradients is not None:
        variables = tuple(
            name for name, gradient in gradients.items() if not _gradient_finite(gradient)
        )
    _, leaves = named_leaves(batch)
    rows = {name: _rows_not_finite(tensor.numpy()) for name, tensor in leaves.items()}
    return Findings(
        step,
        state,
        {name: places for name, places in rows.items() if places},
        None if loss is None else float(loss),
        variables,
    )


def _gradient_finite(gradient: Any) -> bool:
    values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    return all_finite(values.numpy())


def _rows_not_finite(array: npt.NDArray[Any]) -> tuple[int, ...]:
    """The places along the first axis where something is not finite."""
    if array.ndim == 0 or not is_number(array):
        return ()
    finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    return tuple(int(place) for place in np.flatnonzero(~finite))


@dataclasses.dataclass
class Failure:
    """A step that was not finite and that the run was not to skip.

    Attributes:
      step: finished steps before it.
      seed: the run's.
      row: what it reported.
      streak: such steps in a row.
      example_ids: of its batch, by position; None where the feed has none.
      findings: what `message` found.
    """

    step: int
    seed: int
    row: dict[str, float]
    streak: int
    example_ids: npt.NDArray[np.int64] | None
    findings: Findings | None = None

    @classmethod
    def of(cls, step: int, feed: Feed, outcome: Outcome) -> Failure:
        """The failure that ended a call."""
        try:
            ids = feed.example_ids(step)
        except Exception as error:  # The run's own error must be told, whatever befalls this.
            _log.warning(
                "the examples of step %d are not known: %s.example_ids raised %s: %s",
                step,
                type(feed).__name__,
                type(error).__name__,
                str(error).partition("\n")[0],
            )
            ids = None
        row = dict(zip(outcome.rows.columns, outcome.rows.table[-1].tolist(), strict=True))
        return cls(step, feed.seed, row, outcome.streak, ids)

    def message(self, examiner: Examiner) -> str:
        """What is not finite, in a line; computes the step once more to tell."""
        numbers = [
            f"{name}={self.row[name]:g}" for name in ("loss", "gradient_norm") if name in self.row
        ]
        return (
            f"step {self.step} is not finite after {self.streak} such steps in a row "
            f"({', '.join(numbers)}); {self._found(examiner)}; the state is that of step "
            f"{self.step}; seed {self.seed}, examples {self._ids()}"
        )

    def _ids(self) -> str:
        return "unknown" if self.example_ids is None else ", ".join(map(str, self.example_ids))

    def _named(self, positions: tuple[int, ...]) -> str:
        if self.example_ids is None:
            return f"positions {_listed(positions)}"
        return f"examples {_listed(self.example_ids[list(positions)])}"

    def _found(self, examiner: Examiner) -> str:
        try:
            findings = self.findings = examiner.examine(self.step)
        except Exception as error:  # The run's own error must be told, whatever befalls this.
            reason = (str(error).splitlines() or [""])[0]
            return f"what is not finite could not be found ({type(error).__name__}: {reason})"
        parts = []
        if findings.state:
            parts.append(f"not finite before it: {_listed(findings.state)}")
        for name, positions in findings.batch.items():
            parts.append(f"not finite in the batch: {name!r} of {self._named(positions)}")
        if findings.examples:
            parts.append(f"not finite: the loss of {self._named(findings.examples)}")
        if findings.variables:
            parts.append(f"gradients that are not finite: {_listed(findings.variables)}")
        if findings.variables is None:
            parts.append("the step function does not tell its gradients")
        return "; ".join(parts) or "computed eagerly it is finite"


def _listed(names: Sequence[Any] | npt.NDArray[np.int64]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(str, names[:_LISTED])) + more
