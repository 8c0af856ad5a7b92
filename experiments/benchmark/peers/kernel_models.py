"""The race's models on our kernels, as functions of named weights: for `tapestep` and `bare`.

Both contenders share this file, so that what they differ in is the framework and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

import kernels
from experiments.benchmark import workloads

BatchNormRelu = Callable[[int, tf.Tensor, bool], tf.Tensor]
"""(index, x, relu) -> the normalized x, through a ReLU if asked."""

Weights = Mapping[str, Any]


def initial_weights(workload: workloads.Workload) -> dict[str, workloads.Array]:
    """The race's weights in our form: query, key and value side by side in one matrix."""
    weights = workloads.initial_weights(workload)
    joined: dict[str, workloads.Array] = {}
    for name, value in weights.items():
        prefix, _, last = name.rpartition("/")
        if last == "query":
            parts = [value, weights[f"{prefix}/key"], weights[f"{prefix}/value"]]
            joined[f"{prefix}/inputs"] = np.concatenate(parts, axis=1)
        elif last not in ("key", "value"):
            joined[name] = value
    return joined


def logits(
    workload: workloads.Workload, weights: Weights, x: tf.Tensor, batch_norm: BatchNormRelu
) -> tf.Tensor:
    """The model's output: [B, classes], or [B, tokens, vocabulary].

    Args:
      workload: which model.
      weights: as named by `initial_weights`.
      x: the batch's inputs.
      batch_norm: normalizes and keeps the statistics.
    """
    if workload.family == "mlp":
        return _mlp(workload, weights, x, batch_norm)
    if workload.family == "cnn":
        return _cnn(weights, x, batch_norm)
    if workload.family == "resnet20":
        return _resnet20(weights, x, batch_norm)
    if workload.family == "transformer":
        return _transformer(weights, x)
    return _embedding(weights, x)


def _head(weights: Weights, x: tf.Tensor) -> tf.Tensor:
    return x @ weights["head/kernel"] + weights["head/bias"]


def _mlp(
    workload: workloads.Workload, weights: Weights, x: tf.Tensor, batch_norm: BatchNormRelu
) -> tf.Tensor:
    for i in range(len(workload.widths) - 2):
        x = batch_norm(i, x @ weights[f"dense{i}/kernel"], True)
    return _head(weights, x)


def _cnn(weights: Weights, x: tf.Tensor, batch_norm: BatchNormRelu) -> tf.Tensor:
    for i in range(2):
        x = batch_norm(i, kernels.conv2d(x, weights[f"conv{i}/kernel"]), False)
        # A maximum and a ReLU commute: behind the pooling the ReLU has a quarter of the elements.
        x = tf.nn.relu(kernels.max_pool2d(x, 2))
    return _head(weights, tf.reshape(x, [x.shape[0], -1]))


def _resnet20(weights: Weights, x: tf.Tensor, batch_norm: BatchNormRelu) -> tf.Tensor:
    convolutions = workloads.resnet_convolutions()

    def convolve(i: int, x: tf.Tensor, relu: bool) -> tf.Tensor:
        x = kernels.conv2d(x, weights[f"conv{i}/kernel"], strides=convolutions[i][2])
        return batch_norm(i, x, relu)

    x = convolve(0, x, True)
    for i in range(1, len(convolutions), 2):
        residual = convolve(i + 1, convolve(i, x, True), False)
        fan_in, width, stride = convolutions[i]
        if stride == 2:
            pad = (width - fan_in) // 2
            x = tf.pad(x[:, ::2, ::2], [[0, 0], [0, 0], [0, 0], [pad, pad]])
        x = tf.nn.relu(x + residual)
    return _head(weights, tf.reduce_mean(x, [1, 2]))


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _small_lookup(table: tf.Tensor, ids: tf.Tensor) -> Any:
    """Rows of a small table; its gradient is a matrix product, which is faster than a scatter."""
    rows, width = table.shape

    def backward(dy: tf.Tensor) -> tuple[tf.Tensor, None]:
        hot = tf.one_hot(tf.reshape(ids, [-1]), rows, dtype=dy.dtype)
        return tf.matmul(hot, tf.reshape(dy, [-1, width]), transpose_a=True), None

    return tf.gather(table, ids), backward


def _layer_norm(weights: Weights, name: str, x: tf.Tensor) -> tf.Tensor:
    scale, offset = weights[f"{name}/scale"], weights[f"{name}/bias"]
    return kernels.layer_norm(x, scale, offset, epsilon=workloads.LAYER_NORM_EPSILON)


def _transformer(weights: Weights, tokens: tf.Tensor) -> tf.Tensor:
    t = workloads.TRANSFORMER
    batch = tokens.shape[0]
    x = _small_lookup(tf.convert_to_tensor(weights["token"]), tokens) + weights["position"]
    x = tf.reshape(x, [-1, t.width])
    for i in range(t.layers):
        y = _layer_norm(weights, f"layer{i}/norm0", x) @ weights[f"layer{i}/inputs"]
        y = tf.reshape(y, [batch, t.tokens, 3, t.heads, t.width // t.heads])
        y = kernels.causal_attention(*tf.unstack(tf.transpose(y, [2, 0, 3, 1, 4])))
        y = tf.reshape(tf.transpose(y, [0, 2, 1, 3]), [-1, t.width])
        x += y @ weights[f"layer{i}/project"]
        y = _layer_norm(weights, f"layer{i}/norm1", x) @ weights[f"layer{i}/expand"]
        x += kernels.gelu(y, approximate=True) @ weights[f"layer{i}/contract"]
    x = _layer_norm(weights, "norm", x) @ weights["head/kernel"]
    return tf.reshape(x, [batch, t.tokens, t.vocabulary])


def _embedding(weights: Weights, ids: tf.Tensor) -> tf.Tensor:
    x = tf.reduce_mean(tf.nn.embedding_lookup(weights["table"], ids), 1)
    x = tf.nn.relu(x @ weights["dense0/kernel"] + weights["dense0/bias"])
    return _head(weights, x)
