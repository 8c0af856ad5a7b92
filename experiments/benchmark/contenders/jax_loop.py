# mypy: disable-error-code="import-not-found"
"""JAX, state donated, data resident: a jitted call a step, or many steps in one `lax.scan`."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmark import workloads
from experiments.benchmark.contenders import base, jax_models


class Contender(base.Base):
    """Dispatches call after call and waits for the state at the end.

    Args:
      workload: what to train.
      steps_per_call: the length of a scan; one of another length would be compiled anew.
      scan: whether a call is a scan.
    """

    def __init__(self, workload: workloads.Workload, steps_per_call: int, *, scan: bool) -> None:
        self._state = jax_models.initial_state(workload)
        self.fixed_calls = scan
        self.call_steps = steps_per_call if scan else 1
        self._next = 0
        update = jax_models.update_function(workload)
        self._data = x, y = jax_models.batches(workload)
        # A list, so that no step pays for slicing.
        self._batches = itertools.cycle([] if scan else list(zip(x, y, strict=True)))

        def many(state: Any, data: Any, indices: Any) -> Any:
            x, y = data
            return jax.lax.scan(lambda s, i: update(s, x[i], y[i]), state, indices)

        self._update = jax.jit(many if scan else update, donate_argnums=0)

    def call(self, steps: int) -> Any:
        """A scan, or one step."""
        if self.fixed_calls:
            indices = (self._next + jnp.arange(steps)) % workloads.DATA_BATCHES
            self._next = (self._next + steps) % workloads.DATA_BATCHES
            self._state, losses = self._update(self._state, self._data, indices)
        else:
            self._state, losses = self._update(self._state, *next(self._batches))
        return losses

    def wait(self, losses: Any) -> None:
        """Waits for the last state."""
        jax.block_until_ready((self._state, losses))

    def run(self, steps: int) -> float | None:
        """Whole calls."""
        if steps % self.call_steps:
            raise ValueError(f"jax_scan: expected a multiple of {self.call_steps}, found {steps}")
        return super().run(steps)
