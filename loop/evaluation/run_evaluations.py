"""A run's evaluations: the compiled one, and the results of all so far."""

from __future__ import annotations

import contextlib

from loop.actions.meter import Meter
from loop.averaging.shadow_weights import ShadowWeights
from loop.compiled.compiled_loop import Mode
from loop.distribute import Replicas
from loop.evaluation.evaluation import CompiledEvaluation, Evaluation


class RunEvaluations:
    """Evaluates a run's state and keeps the results.

    Args:
      evaluation: what to run; None for a run without one.
      weights: what it runs on instead of the trained weights.
      replicas: where it runs.
      meter: counts the time.

    Attributes:
      results: (step, results) of every evaluation of the run.
      compiled: the evaluation as it was compiled last; None before.
    """

    def __init__(
        self,
        evaluation: Evaluation | None,
        weights: ShadowWeights | None,
        replicas: Replicas,
        meter: Meter,
    ) -> None:
        self._evaluation = evaluation
        self._weights = weights
        self._replicas = replicas
        self._meter = meter
        self.results: list[tuple[int, dict[str, float]]] = []
        self.compiled: CompiledEvaluation | None = None

    def require(self) -> None:
        """Raises ValueError in a run without an evaluation."""
        if self._evaluation is None:
            raise ValueError("Trainer: made without an evaluation; pass `evaluation=`")

    def run(self, step: int, mode: Mode) -> tuple[dict[str, float], bool]:
        """The results on the current state, and whether they are new; `require` comes first.

        A resume evaluates its first step again: the same results of a step are kept once.

        Args:
          step: finished steps.
          mode: the compile mode.

        """
        assert self._evaluation is not None
        # Training decides the mode: one that is chosen after an evaluation holds for the next.
        if self.compiled is None or self.compiled.mode != mode:
            with self._meter.phase("compile"):
                compiled = self._evaluation.compiled(mode, self._replicas)
                compiled.compile()
                self.compiled = compiled
        with self._meter.phase("evaluate"), self.weights():
            results = self.compiled()
        new = self.results[-1:] != [(step, results)]
        if new:
            self.results.append((step, results))
        return results, new

    def weights(self) -> contextlib.AbstractContextManager[None]:
        """Inside it the weights are those to evaluate."""
        if self._weights is None:
            return contextlib.nullcontext()
        return self._weights.swapped(self._replicas)
