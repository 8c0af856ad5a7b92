# mypy: disable-error-code="import-not-found"
"""PyTorch's training loop: fused Adam, clipping, an exponential schedule."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch.nn import functional

from experiments.benchmark import workloads
from experiments.benchmark.peers import torch_models


class Loop:
    """One step a Python iteration; `compile` compiles the model and its loss."""

    def __init__(self, workload: workloads.Workload, *, compile: bool) -> None:
        self._batches = itertools.cycle(torch_models.batches(workload))
        model = torch_models.build(workload)
        self._sparse = [m.weight for m in model.modules() if getattr(m, "sparse", False)]
        sparse = {id(p) for p in self._sparse}
        self._dense = [p for p in model.parameters() if id(p) not in sparse]
        betas = (workloads.BETA_1, workloads.BETA_2)
        settings: dict[str, Any] = {"lr": workloads.LEARNING_RATE, "betas": betas}
        settings["eps"] = workloads.EPSILON
        self._optimizers: list[Any] = [torch.optim.Adam(self._dense, fused=True, **settings)]
        if self._sparse:
            # Adam refuses sparse gradients; SparseAdam moves only the rows of the batch.
            self._optimizers.append(torch.optim.SparseAdam(self._sparse, **settings))
        gamma = workloads.DECAY_RATE ** (1 / workloads.DECAY_STEPS)
        schedule = torch.optim.lr_scheduler.ExponentialLR
        self._schedules = [schedule(optimizer, gamma) for optimizer in self._optimizers]

        def loss_fn(x: Any, y: Any) -> Any:
            return functional.cross_entropy(model(x), y)

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

    def _step(self) -> Any:
        x, y = next(self._batches)
        loss = self._loss_fn(x, y)
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._clip()
        for optimizer in self._optimizers:
            optimizer.step()
        for schedule in self._schedules:
            schedule.step()
        return loss.detach()

    def first_losses(self, count: int) -> list[float]:
        """Each of the first steps' losses."""
        return [float(self._step()) for _ in range(count)]

    def run(self, steps: int) -> None:
        """PyTorch on a CPU is synchronous; the last loss is read all the same."""
        for _ in range(steps):
            loss = self._step()
        loss.item()


def eager(workload: workloads.Workload, _: int) -> Loop:
    """PyTorch as it comes."""
    return Loop(workload, compile=False)


def compiled(workload: workloads.Workload, _: int) -> Loop:
    """With torch.compile around forward, loss and their gradients."""
    return Loop(workload, compile=True)
