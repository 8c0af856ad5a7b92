"""A run's evaluations: the compiled ones, and the results of all so far."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from loop.actions.meter import Meter
from loop.averaging.shadow_weights import ShadowWeights
from loop.compiled.compiled_loop import Mode
from loop.distribute import Replicas
from loop.evaluation.evaluation import CompiledEvaluation, Evaluation


class RunEvaluations:
    """Evaluates a run's state and keeps the results.

    A result of one of several evaluations is named by its own and the metric's name:
    `hard/accuracy`. One evaluation that is given alone has no name, and its metrics keep theirs.

    Args:
      evaluation: what to run, one or several by name; None for a run without one.
      weights: what they run on instead of the trained weights.
      replicas: where they run.
      meter: counts the time.

    Attributes:
      results: (step, results) of every evaluation of the run.
      compiled: name -> the evaluation as it was compiled last; "" for the one without a name.

    Raises:
      TypeError: on what is no `Evaluation`.
      ValueError: on no evaluation in a mapping, or a name that is empty or has a slash.
    """

    def __init__(
        self,
        evaluation: Evaluation | Mapping[str, Evaluation] | None,
        weights: ShadowWeights | None,
        replicas: Replicas,
        meter: Meter,
    ) -> None:
        self._evaluations = _by_name(evaluation)
        self._weights = weights
        self._replicas = replicas
        self._meter = meter
        self.results: list[tuple[int, dict[str, Any]]] = []
        self.compiled: dict[str, CompiledEvaluation] = {}

    def require(self) -> None:
        """Raises ValueError in a run without an evaluation."""
        if not self._evaluations:
            raise ValueError("Trainer: made without an evaluation; pass `evaluation=`")

    def run(self, mode: Mode) -> dict[str, Any]:
        """The results on the current state in a compile mode; `require` comes first.

        Raises:
          ValueError: if a metric is named "step", as the step of a line of results is.
        """
        results: dict[str, Any] = {}
        for name in self._evaluations:
            compiled = self._compiled(name, mode)
            with self._meter.phase("evaluate"), self.weights():
                found = compiled()
            results |= {f"{name}/{metric}" if name else metric: v for metric, v in found.items()}
        if "step" in results:
            raise ValueError(
                "Evaluation: 'step' is the number of a line of results; name the metric otherwise"
            )
        return results

    def _compiled(self, name: str, mode: Mode) -> CompiledEvaluation:
        compiled = self.compiled.get(name)
        # Training decides the mode: one that is chosen after an evaluation holds for the next.
        if compiled is None or compiled.mode != mode:
            with self._meter.phase("compile"):
                compiled = self._evaluations[name].compiled(mode, self._replicas)
                compiled.compile()
                self.compiled[name] = compiled
        return compiled

    def record(self, step: int, results: dict[str, Any]) -> bool:
        """Keeps the results after `step` finished steps, and tells whether they are new.

        A resume evaluates its first step again: the same results of a step are kept once.
        """
        new = self.results[-1:] != [(step, results)]
        if new:
            self.results.append((step, results))
        return new

    def weights(self) -> contextlib.AbstractContextManager[None]:
        """Inside it the weights are those to evaluate."""
        if self._weights is None:
            return contextlib.nullcontext()
        return self._weights.swapped(self._replicas)


def _by_name(evaluation: Evaluation | Mapping[str, Evaluation] | None) -> dict[str, Evaluation]:
    if evaluation is None:
        return {}
    if not isinstance(evaluation, Mapping):
        named = {"": evaluation}
    elif evaluation:
        named = dict(evaluation)
        # With a slash, two names and metrics could make one name of a result.
        bad = [name for name in named if not isinstance(name, str) or not name or "/" in name]
        if bad:
            raise ValueError(
                f"Trainer: an evaluation is named {bad[0]!r}, expected a name without a slash: its "
                "results are named `name/metric`"
            )
    else:
        raise ValueError("Trainer: evaluation={} holds no evaluation; leave it out for none")
    for name, one in named.items():
        if not isinstance(one, Evaluation):
            raise TypeError(
                f"Trainer: evaluation{f'[{name!r}]' if name else ''} expected a loop.Evaluation, "
                f"or several by name, found {type(one).__name__}"
            )
    return named
