# mypy: disable-error-code="import-not-found"
"""PyTorch's training loop: fused Adam, clipping, an exponential schedule."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from experiments.benchmark import workloads
from experiments.benchmark.contenders import base, torch_models


class Contender(base.Base):
    """One step a call; `compile` puts torch.compile around forward, loss and their gradients."""

    def __init__(self, workload: workloads.Workload, _: int, *, compile: bool) -> None:
        self._batches = itertools.cycle(torch_models.batches(workload))
        weights = torch_models.parameters(workload)
        self._sparse = [value for name, value in weights.items() if name == "rows/table"]
        self._dense = [value for name, value in weights.items() if name != "rows/table"]
        settings: dict[str, Any] = {"lr": workloads.LEARNING_RATE, "eps": workloads.EPSILON}
        settings["betas"] = (workloads.BETA_1, workloads.BETA_2)
        self._optimizers: list[Any] = [torch.optim.Adam(self._dense, fused=True, **settings)]
        if self._sparse:
            # Adam refuses sparse gradients; SparseAdam moves only the rows of the batch.
            self._optimizers.append(torch.optim.SparseAdam(self._sparse, **settings))
        gamma = workloads.DECAY_RATE ** (1 / workloads.DECAY_STEPS)
        schedule = torch.optim.lr_scheduler.ExponentialLR
        self._schedules = [schedule(optimizer, gamma) for optimizer in self._optimizers]

        loss_fn = torch_models.loss_function(workload, weights)
        self._loss_fn = torch.compile(loss_fn) if compile else loss_fn

    def _clip(self) -> None:
        """Clips to the global norm; torch's own function does not take sparse gradients."""
        if not self._sparse:
            torch.nn.utils.clip_grad_norm_(self._dense, workloads.CLIP_NORM)
            return
        for parameter in self._sparse:
            parameter.grad = parameter.grad.coalesce()
        gradients = [p.grad.values() for p in self._sparse] + [p.grad for p in self._dense]
        norm = torch.nn.utils.get_total_norm(gradients)
        torch._foreach_mul_(gradients, torch.clamp(workloads.CLIP_NORM / (norm + 1e-6), max=1.0))

    def call(self, _: int) -> Any:
        """One step; PyTorch on a CPU is synchronous."""
        loss = self._loss_fn(*next(self._batches))
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._clip()
        for each in (*self._optimizers, *self._schedules):
            each.step()
        return loss.detach()
