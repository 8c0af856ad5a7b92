"""The models' operations by our kernels: for `tapestep` and `bare`.

Both contenders share this file, so that what they differ in is the framework and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

import kernels
from experiments.benchmark import workloads
from experiments.benchmark.contenders.models import Operations


def initial_weights(workload: workloads.Workload) -> dict[str, workloads.Array]:
    """The race's weights in our form: query, key and value side by side in one matrix."""
    weights = workloads.initial_weights(workload)
    for layer in [name.removesuffix("query/kernel") for name in weights if "query" in name]:
        parts = [weights.pop(f"{layer}{name}/kernel") for name in ("query", "key", "value")]
        weights[f"{layer}inputs/kernel"] = np.concatenate(parts, axis=1)
    return weights


def losses(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Each label's, in the shape of the labels."""
    return kernels.softmax_cross_entropy(y, tf.reshape(logits, [*y.shape, logits.shape[-1]]))


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _small_lookup(table: tf.Tensor, ids: tf.Tensor) -> Any:
    """Rows of a small table; its gradient is a matrix product, which is faster than a scatter."""
    rows, width = table.shape

    def backward(dy: tf.Tensor) -> tuple[tf.Tensor, None]:
        hot = tf.one_hot(tf.reshape(ids, [-1]), rows, dtype=dy.dtype)
        return tf.matmul(hot, tf.reshape(dy, [-1, width]), transpose_a=True), None

    return tf.gather(table, ids), backward


def operations(
    weights: Mapping[str, Any], batch_norm: Callable[[int, tf.Tensor, bool], tf.Tensor]
) -> Operations:
    """On these weights; a transformer's rows are those of all examples, [B * tokens, width]."""
    t = workloads.TRANSFORMER

    def dense(layer: str, x: tf.Tensor) -> tf.Tensor:
        y, bias = x @ weights[f"{layer}/kernel"], weights.get(f"{layer}/bias")
        return y if bias is None else y + bias

    def embed(tokens: tf.Tensor) -> tf.Tensor:
        rows = _small_lookup(tf.convert_to_tensor(weights["token/table"]), tokens)
        return tf.reshape(rows + weights["position/table"], [-1, t.width])

    def layer_norm(layer: str, x: tf.Tensor) -> tf.Tensor:
        scale, offset = weights[f"{layer}/scale"], weights[f"{layer}/bias"]
        return kernels.layer_norm(x, scale, offset, epsilon=workloads.LAYER_NORM_EPSILON)

    def attend(layer: str, x: tf.Tensor) -> tf.Tensor:
        y = dense(f"{layer}/inputs", x)
        y = tf.reshape(y, [-1, t.tokens, 3, t.heads, t.width // t.heads])
        y = kernels.causal_attention(*tf.unstack(tf.transpose(y, [2, 0, 3, 1, 4])))
        return tf.reshape(tf.transpose(y, [0, 2, 1, 3]), [-1, t.width])

    return Operations(
        dense=dense,
        convolve=lambda i, x, s: kernels.conv2d(x, weights[f"conv{i}/kernel"], strides=s),
        batch_norm=batch_norm,
        relu=tf.nn.relu,
        # Behind the pooling the ReLU has a quarter of the elements.
        pool_and_relu=lambda x: tf.nn.relu(kernels.max_pool2d(x, 2)),
        flatten=lambda x: tf.reshape(x, [x.shape[0], -1]),
        mean=lambda x: tf.reduce_mean(x, [1, 2]),
        shorten=lambda x, pad: tf.pad(x[:, ::2, ::2], [[0, 0], [0, 0], [0, 0], [pad, pad]]),
        embed=embed,
        layer_norm=layer_norm,
        attend=attend,
        gelu=lambda x: kernels.gelu(x, approximate=True),
        mean_row=lambda ids: tf.reduce_mean(tf.nn.embedding_lookup(weights["rows/table"], ids), 1),
    )
