# mypy: disable-error-code="import-not-found"
"""Contender jax_scan: many steps in one `lax.scan`, state donated, data resident."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmark import workloads
from experiments.benchmark.peers import jax_models, worker


class JaxScan:
    """Scans over the next batches' indices, `steps_per_call` at a time.

    Attributes:
      fixed_calls: a scan of another length would be compiled anew.
    """

    fixed_calls = True

    def __init__(self, workload: workloads.Workload, steps_per_call: int) -> None:
        self._data = jax_models.batches(workload)
        self._state = jax_models.initial_state(workload)
        self._steps = steps_per_call
        self._next = 0
        update = jax_models.update_function(workload)

        def many(state: Any, data: Any, indices: Any) -> tuple[Any, Any]:
            x, y = data
            state, losses = jax.lax.scan(lambda s, i: update(s, x[i], y[i]), state, indices)
            return state, losses

        self._many = jax.jit(many, donate_argnums=0)

    def _call(self, steps: int) -> Any:
        indices = (self._next + jnp.arange(steps)) % workloads.DATA_BATCHES
        self._next = (self._next + steps) % workloads.DATA_BATCHES
        self._state, losses = self._many(self._state, self._data, indices)
        return losses

    def first_losses(self, count: int) -> list[float]:
        """Each of the first steps' losses."""
        return [float(loss) for loss in self._call(count)]

    def run(self, steps: int) -> None:
        """Whole calls (a scan has a static length), then waits for the last state."""
        if steps % self._steps:
            raise ValueError(f"jax_scan: expected a multiple of {self._steps}, found {steps}")
        for _ in range(steps // self._steps):
            losses = self._call(self._steps)
        jax.block_until_ready((self._state, losses))


if __name__ == "__main__":
    worker.serve(JaxScan)
