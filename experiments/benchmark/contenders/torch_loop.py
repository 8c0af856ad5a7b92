# mypy: disable-error-code="import-not-found"
"""PyTorch: channels-last convolutions, fused Adam, clipping, an exponential schedule."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch.nn import functional

from experiments.benchmark import workloads
from experiments.benchmark.contenders import base, models
from experiments.benchmark.contenders.models import Operations


def _images(workload: workloads.Workload, x: Any, axes: tuple[int, ...]) -> Any:
    """Images or a kernel in PyTorch's order, its channels last in memory.

    ResNet-20 sees its images and kernels mirrored in both directions: TensorFlow's SAME pads a
    stride of 2 at the end, PyTorch's padding=1 at both sides. Mirrored, they are the same sums, and
    no step pays for a padded copy.
    """
    x = x.permute(axes)
    if workload.family == "resnet20":
        x = x.flip((2, 3))
    return x.contiguous(memory_format=torch.channels_last)


def _parameters(workload: workloads.Workload) -> dict[str, Any]:
    """The initial weights: matrices [out, in], query, key and value side by side in one."""
    arrays = workloads.initial_weights(workload)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    for layer in [name.removesuffix("query/kernel") for name in tensors if "query" in name]:
        parts = [tensors.pop(f"{layer}{name}/kernel") for name in ("query", "key", "value")]
        tensors[f"{layer}inputs/kernel"] = torch.cat(parts, dim=1)
    for name, tensor in tensors.items():
        if tensor.ndim == 4:
            tensors[name] = _images(workload, tensor, (3, 2, 0, 1))
        elif name.endswith("/kernel"):
            tensors[name] = tensor.T.contiguous()
    return {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}


def _operations(weights: dict[str, Any]) -> Operations:
    """On these weights, and on moving statistics of its own."""
    scales = [value for name, value in weights.items() if name.endswith("/gamma")]
    moving = [(torch.zeros(len(scale)), torch.ones(len(scale))) for scale in scales]

    def dense(layer: str, x: Any) -> Any:
        return functional.linear(x, weights[f"{layer}/kernel"], weights.get(f"{layer}/bias"))

    def batch_norm(i: int, x: Any, relu: bool) -> Any:
        scale, offset = weights[f"bn{i}/gamma"], weights[f"bn{i}/beta"]
        momentum, epsilon = 1 - workloads.BATCH_NORM_MOMENTUM, workloads.BATCH_NORM_EPSILON
        y = functional.batch_norm(x, *moving[i], scale, offset, True, momentum, epsilon)
        return functional.relu(y, inplace=True) if relu else y

    def layer_norm(layer: str, x: Any) -> Any:
        scale, offset = weights[f"{layer}/scale"], weights[f"{layer}/bias"]
        return functional.layer_norm(x, scale.shape, scale, offset, workloads.LAYER_NORM_EPSILON)

    def attend(layer: str, x: Any) -> Any:
        t = workloads.TRANSFORMER
        joined = dense(f"{layer}/inputs", x).view(*x.shape[:2], 3, t.heads, t.width // t.heads)
        parts = joined.permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(*parts, is_causal=True)
        return y.transpose(1, 2).reshape(x.shape)

    def mean_row(ids: Any) -> Any:
        return functional.embedding_bag(ids, weights["rows/table"], mode="mean", sparse=True)

    return Operations(
        dense=dense,
        convolve=lambda i, x, s: functional.conv2d(
            x, weights[f"conv{i}/kernel"], None, s, padding=1
        ),
        batch_norm=batch_norm,
        relu=functional.relu,
        pool_and_relu=lambda x: functional.max_pool2d(functional.relu(x, inplace=True), 2),
        # A channels-last tensor flattens in the order of the other frameworks without a copy.
        flatten=lambda x: x.permute(0, 2, 3, 1).flatten(1),
        mean=lambda x: x.mean((2, 3)),
        shorten=lambda x, pad: functional.pad(x[:, :, 1::2, 1::2], (0, 0, 0, 0, pad, pad)),
        embed=lambda tokens: (
            functional.embedding(tokens, weights["token/table"]) + weights["position/table"]
        ),
        layer_norm=layer_norm,
        attend=attend,
        gelu=lambda x: functional.gelu(x, approximate="tanh"),
        mean_row=mean_row,
    )


def _batches(workload: workloads.Workload) -> list[tuple[Any, Any]]:
    """The data as resident tensors, one pair a batch, in the layout the model likes best."""
    x, y = (torch.from_numpy(array) for array in workloads.examples(workload))
    if len(workload.example_shape) == 3:
        x = _images(workload, x, (0, 3, 1, 2))
    pairs = zip(x.split(workload.batch), y.long().split(workload.batch), strict=True)
    return [(x, y.flatten()) for x, y in pairs]


class Contender(base.Base):
    """One step a call; `compile` puts torch.compile around forward, loss and their gradients."""

    def __init__(self, workload: workloads.Workload, _: int, *, compile: bool) -> None:
        self._batches = itertools.cycle(_batches(workload))
        weights = _parameters(workload)
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

        on = _operations(weights)

        def loss_fn(x: Any, y: Any) -> Any:
            return functional.cross_entropy(models.logits(workload, on, x).flatten(0, -2), y)

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
