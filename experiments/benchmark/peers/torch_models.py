# mypy: disable-error-code="import-not-found"
"""The race's models in PyTorch, with channels-last convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from experiments.benchmark import workloads


class _Mlp(nn.Module):  # type: ignore[misc]  # torch may be absent where types are checked
    def __init__(self, workload: workloads.Workload) -> None:
        super().__init__()
        layers: list[Any] = []
        for fan_in, width in zip(workload.widths[:-2], workload.widths[1:-1], strict=True):
            layers += [nn.Linear(fan_in, width, bias=False), _batch_norm(nn.BatchNorm1d, width)]
            layers.append(nn.ReLU(inplace=True))
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(workload.widths[-2], workload.widths[-1])

    def forward(self, x: Any) -> Any:
        return self.head(self.body(x))


def _batch_norm(kind: Any, width: int) -> Any:
    momentum = 1 - workloads.BATCH_NORM_MOMENTUM
    return kind(width, eps=workloads.BATCH_NORM_EPSILON, momentum=momentum)


def _convolution(fan_in: int, width: int, stride: int = 1) -> Any:
    return nn.Sequential(
        nn.Conv2d(fan_in, width, 3, stride, padding=1, bias=False),
        _batch_norm(nn.BatchNorm2d, width),
    )


class _Cnn(nn.Module):  # type: ignore[misc]
    def __init__(self, _: workloads.Workload) -> None:
        super().__init__()
        pieces = [
            piece
            for fan_in, width in ((1, 32), (32, 64))
            for piece in (_convolution(fan_in, width), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        ]
        self.body = nn.Sequential(*pieces)
        self.head = nn.Linear(7 * 7 * 64, workloads.CLASSES)

    def forward(self, x: Any) -> Any:
        # A channels-last tensor flattens in the order of the other frameworks without a copy.
        return self.head(self.body(x).permute(0, 2, 3, 1).flatten(1))


class _Resnet20(nn.Module):  # type: ignore[misc]
    """Sees its images and kernels mirrored in both directions.

    TensorFlow's SAME pads a stride of 2 at the end, PyTorch's padding=1 at both sides. Mirrored,
    they are the same sums, and no step pays for a padded copy.
    """

    def __init__(self, _: workloads.Workload) -> None:
        super().__init__()
        self.sizes = workloads.resnet_convolutions()
        self.convolutions = nn.ModuleList(_convolution(*size) for size in self.sizes)
        self.head = nn.Linear(workloads.RESNET_WIDTHS[-1], workloads.CLASSES)

    def forward(self, x: Any) -> Any:
        x = functional.relu(self.convolutions[0](x))
        for i in range(1, len(self.sizes), 2):
            residual = functional.relu(self.convolutions[i](x))
            residual = self.convolutions[i + 1](residual)
            fan_in, width, stride = self.sizes[i]
            if stride == 2:
                pad = (width - fan_in) // 2
                x = functional.pad(x[:, :, 1::2, 1::2], (0, 0, 0, 0, pad, pad))
            x = functional.relu(x + residual)
        return self.head(x.mean((2, 3)))


class _Transformer(nn.Module):  # type: ignore[misc]
    def __init__(self, _: workloads.Workload) -> None:
        super().__init__()
        t = workloads.TRANSFORMER
        self.token = nn.Embedding(t.vocabulary, t.width)
        self.position = nn.Parameter(torch.zeros(t.tokens, t.width))
        self.layers = nn.ModuleList(_Block() for _ in range(t.layers))
        self.norm = nn.LayerNorm(t.width, workloads.LAYER_NORM_EPSILON)
        self.head = nn.Linear(t.width, t.vocabulary, bias=False)

    def forward(self, tokens: Any) -> Any:
        x = self.token(tokens) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)).flatten(0, 1)


class _Block(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        t = workloads.TRANSFORMER
        self.norm0 = nn.LayerNorm(t.width, workloads.LAYER_NORM_EPSILON)
        self.inputs = nn.Linear(t.width, 3 * t.width, bias=False)
        self.project = nn.Linear(t.width, t.width, bias=False)
        self.norm1 = nn.LayerNorm(t.width, workloads.LAYER_NORM_EPSILON)
        self.expand = nn.Linear(t.width, t.hidden, bias=False)
        self.contract = nn.Linear(t.hidden, t.width, bias=False)

    def forward(self, x: Any) -> Any:
        t = workloads.TRANSFORMER
        batch, tokens, width = x.shape
        joined = self.inputs(self.norm0(x)).view(batch, tokens, 3, t.heads, width // t.heads)
        query, key, value = joined.permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(y.transpose(1, 2).reshape(x.shape))
        y = functional.gelu(self.expand(self.norm1(x)), approximate="tanh")
        return x + self.contract(y)


class _Embedding(nn.Module):  # type: ignore[misc]
    def __init__(self, _: workloads.Workload) -> None:
        super().__init__()
        e = workloads.EMBEDDING
        self.table = nn.EmbeddingBag(e.rows, e.width, mode="mean", sparse=True)
        self.dense = nn.Linear(e.width, e.hidden)
        self.head = nn.Linear(e.hidden, workloads.CLASSES)

    def forward(self, ids: Any) -> Any:
        return self.head(functional.relu(self.dense(self.table(ids))))


_MODELS: dict[str, Any] = {
    "mlp": _Mlp,
    "cnn": _Cnn,
    "resnet20": _Resnet20,
    "transformer": _Transformer,
    "embedding": _Embedding,
}


def _is_convolutional(workload: workloads.Workload) -> bool:
    return workload.family in ("cnn", "resnet20")


def _tensors(workload: workloads.Workload) -> list[Any]:
    """The initial weights in the order and layout of the model's `parameters()`."""
    weights = workloads.initial_weights(workload)
    if workload.family == "transformer":
        return _transformer_tensors(weights)
    tensors = []
    for name, value in weights.items():
        tensor = torch.from_numpy(value)
        if name.startswith("conv"):
            tensor = tensor.permute(3, 2, 0, 1)
            if workload.family == "resnet20":
                tensor = tensor.flip((2, 3))
        elif name.endswith("/kernel"):
            tensor = tensor.T
        tensors.append(tensor)
    return tensors


def _transformer_tensors(weights: dict[str, workloads.Array]) -> list[Any]:
    t = {name: torch.from_numpy(value) for name, value in weights.items()}
    # A module's own parameters come before its children's.
    tensors = [t["position"], t["token"]]
    for i in range(workloads.TRANSFORMER.layers):
        p = f"layer{i}"
        inputs = torch.cat([t[f"{p}/{name}"].T for name in ("query", "key", "value")])
        tensors += [t[f"{p}/norm0/scale"], t[f"{p}/norm0/bias"], inputs, t[f"{p}/project"].T]
        tensors += [t[f"{p}/norm1/scale"], t[f"{p}/norm1/bias"]]
        tensors += [t[f"{p}/expand"].T, t[f"{p}/contract"].T]
    return [*tensors, t["norm/scale"], t["norm/bias"], t["head/kernel"].T]


def build(workload: workloads.Workload) -> Any:
    """The model in training mode, with the race's initial weights."""
    model = _MODELS[workload.family](workload)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), _tensors(workload), strict=True):
            parameter.copy_(value)
    if _is_convolutional(workload):
        model = model.to(memory_format=torch.channels_last)
    return model.train()


def batches(workload: workloads.Workload) -> list[tuple[Any, Any]]:
    """The data as resident tensors, one pair a batch, in the layout the model likes best."""
    x, y = (torch.from_numpy(array) for array in workloads.examples(workload))
    if _is_convolutional(workload):
        x = x.permute(0, 3, 1, 2)
        if workload.family == "resnet20":
            x = x.flip((2, 3))
        x = x.contiguous(memory_format=torch.channels_last)
    y = y.long()
    pairs = zip(x.split(workload.batch), y.split(workload.batch), strict=True)
    return [(x, y.flatten()) for x, y in pairs]
