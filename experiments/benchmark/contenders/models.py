"""The race's models, once for every framework that computes them by functions of named weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.benchmark import workloads


class Operations(NamedTuple):
    """A framework's operations in training, on the weights that `workloads` names."""

    # (layer, x) -> their product, and the bias where the layer has one
    dense: Callable[[str, Any], Any]
    convolve: Callable[[int, Any, int], Any]  # (index, x, stride) -> a convolution 3x3, SAME
    # (index, x, relu) -> x normalized, through a ReLU if asked; keeps the statistics
    batch_norm: Callable[[int, Any, bool], Any]
    relu: Callable[[Any], Any]  # a ReLU
    pool_and_relu: Callable[[Any], Any]  # 2x2 maxima and a ReLU, in the order that is faster
    flatten: Callable[[Any], Any]  # [B, ...] -> [B, features], channels last
    mean: Callable[[Any], Any]  # images -> the mean of their pixels, [B, channels]
    # (x, pad) -> every second pixel, with `pad` channels of zeros on both sides
    shorten: Callable[[Any, int], Any]
    embed: Callable[[Any], Any]  # tokens -> their rows of "token", "position" added
    layer_norm: Callable[[str, Any], Any]  # (layer, x) -> x normalized over the last axis
    attend: Callable[[str, Any], Any]  # (layer, x) -> causal attention without the last product
    gelu: Callable[[Any], Any]  # by tanh
    mean_row: Callable[[Any], Any]  # ids -> the mean of the rows of "rows"


def logits(workload: workloads.Workload, on: Operations, x: Any) -> Any:
    """The model's output: [B, classes], or of a transformer its tokens' in the form of its rows."""
    if workload.family == "transformer":
        return _transformer(on, x)
    if workload.family == "mlp":
        for i in range(len(workload.widths) - 2):
            x = on.batch_norm(i, on.dense(f"dense{i}", x), True)
    elif workload.family == "cnn":
        for i in range(2):
            x = on.pool_and_relu(on.batch_norm(i, on.convolve(i, x, 1), False))
        x = on.flatten(x)
    elif workload.family == "resnet20":
        x = on.mean(_resnet20(on, x))
    else:
        x = on.relu(on.dense("dense0", on.mean_row(x)))
    return on.dense("head", x)


def _resnet20(on: Operations, x: Any) -> Any:
    convolutions = workloads.resnet_convolutions()

    def convolve(i: int, x: Any, relu: bool) -> Any:
        return on.batch_norm(i, on.convolve(i, x, convolutions[i][2]), relu)

    x = convolve(0, x, True)
    for i in range(1, len(convolutions), 2):
        residual = convolve(i + 1, convolve(i, x, True), False)
        fan_in, width, stride = convolutions[i]
        x = on.relu((x if stride == 1 else on.shorten(x, (width - fan_in) // 2)) + residual)
    return x


def _transformer(on: Operations, tokens: Any) -> Any:
    x = on.embed(tokens)
    for i in range(workloads.TRANSFORMER.layers):
        layer = f"layer{i}"
        x = x + on.dense(f"{layer}/project", on.attend(layer, on.layer_norm(f"{layer}/norm0", x)))
        y = on.dense(f"{layer}/expand", on.layer_norm(f"{layer}/norm1", x))
        x = x + on.dense(f"{layer}/contract", on.gelu(y))
    return on.dense("head", on.layer_norm("norm", x))
