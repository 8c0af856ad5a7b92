# mypy: disable-error-code="import-not-found"
"""Contender jax_step: one jitted call a step, state donated, batches resident."""

from __future__ import annotations

import itertools

import jax

from experiments.benchmark import workloads
from experiments.benchmark.peers import jax_models, worker


class JaxStep:
    """Dispatches step after step; waits at the end."""

    def __init__(self, workload: workloads.Workload, _: int) -> None:
        x, y = jax_models.batches(workload)
        # Lists, so that no step pays for slicing.
        self._batches = itertools.cycle(list(zip(x, y, strict=True)))
        self._state = jax_models.initial_state(workload)
        self._update = jax.jit(jax_models.update_function(workload), donate_argnums=0)

    def first_losses(self, count: int) -> list[float]:
        """Each of the first steps' losses."""
        losses = []
        for _ in range(count):
            self._state, loss = self._update(self._state, *next(self._batches))
            losses.append(float(loss))
        return losses

    def run(self, steps: int) -> None:
        """Trains, then waits for the last state."""
        for _ in range(steps):
            self._state, loss = self._update(self._state, *next(self._batches))
        jax.block_until_ready((self._state, loss))


if __name__ == "__main__":
    worker.serve(JaxStep)
