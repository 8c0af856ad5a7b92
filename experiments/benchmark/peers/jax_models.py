# mypy: disable-error-code="import-not-found"
"""The race's models and update in JAX and optax, as pure functions of a dict of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.benchmark import workloads

Params = dict[str, Any]
Model = Callable[[Params, Params, Any], tuple[Any, Params]]


def _batch_norm(params: Params, moving: Params, updated: Params, i: int, x: Any) -> Any:
    """Normalizes over all axes but the last; writes the new moving statistics to `updated`."""
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    variance = jnp.maximum((x * x).mean(axes) - mean * mean, 0.0)
    for name, value in (("mean", mean), ("variance", variance)):
        old = moving[f"bn{i}/{name}"]
        updated[f"bn{i}/{name}"] = old + (value - old) * (1 - workloads.BATCH_NORM_MOMENTUM)
    scale = params[f"bn{i}/gamma"] * jax.lax.rsqrt(variance + workloads.BATCH_NORM_EPSILON)
    return x * scale + (params[f"bn{i}/beta"] - mean * scale)


def _convolve(x: Any, kernel: Any, stride: int = 1) -> Any:
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=dimensions
    )


def _max_pool(x: Any) -> Any:
    """2x2 by a reshape: its gradient is far cheaper on a CPU than reduce_window's."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


def _head(params: Params, x: Any) -> Any:
    return x @ params["head/kernel"] + params["head/bias"]


def _mlp(workload: workloads.Workload) -> Model:
    def apply(params: Params, moving: Params, x: Any) -> tuple[Any, Params]:
        updated: Params = {}
        for i in range(len(workload.widths) - 2):
            x = x @ params[f"dense{i}/kernel"]
            x = jax.nn.relu(_batch_norm(params, moving, updated, i, x))
        return _head(params, x), updated

    return apply


def _cnn(params: Params, moving: Params, x: Any) -> tuple[Any, Params]:
    updated: Params = {}
    for i in range(2):
        x = _convolve(x, params[f"conv{i}/kernel"])
        x = _max_pool(jax.nn.relu(_batch_norm(params, moving, updated, i, x)))
    return _head(params, x.reshape(x.shape[0], -1)), updated


def _resnet20(params: Params, moving: Params, x: Any) -> tuple[Any, Params]:
    updated: Params = {}
    convolutions = workloads.resnet_convolutions()

    def convolve(i: int, x: Any) -> Any:
        x = _convolve(x, params[f"conv{i}/kernel"], convolutions[i][2])
        return _batch_norm(params, moving, updated, i, x)

    x = jax.nn.relu(convolve(0, x))
    for i in range(1, len(convolutions), 2):
        residual = convolve(i + 1, jax.nn.relu(convolve(i, x)))
        _, width, stride = convolutions[i]
        if stride == 2:
            pad = (width - x.shape[-1]) // 2
            x = jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (pad, pad)))
        x = jax.nn.relu(x + residual)
    return _head(params, x.mean((1, 2))), updated


def _layer_norm(params: Params, name: str, x: Any) -> Any:
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    x = (x - mean) * jax.lax.rsqrt(variance + workloads.LAYER_NORM_EPSILON)
    return x * params[f"{name}/scale"] + params[f"{name}/bias"]


def _transformer(params: Params, _: Params, tokens: Any) -> tuple[Any, Params]:
    t = workloads.TRANSFORMER
    x = params["token"][tokens] + params["position"]
    heads = (*tokens.shape, t.heads, t.width // t.heads)
    for i in range(t.layers):
        y = _layer_norm(params, f"layer{i}/norm0", x)
        query, key, value = (
            (y @ params[f"layer{i}/{name}"]).reshape(heads) for name in ("query", "key", "value")
        )
        y = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        x = x + y.reshape(x.shape) @ params[f"layer{i}/project"]
        y = _layer_norm(params, f"layer{i}/norm1", x)
        y = jax.nn.gelu(y @ params[f"layer{i}/expand"], approximate=True)
        x = x + y @ params[f"layer{i}/contract"]
    return _layer_norm(params, "norm", x) @ params["head/kernel"], {}


def _embedding(params: Params, _: Params, ids: Any) -> tuple[Any, Params]:
    x = params["table"][ids].mean(1)
    x = jax.nn.relu(x @ params["dense0/kernel"] + params["dense0/bias"])
    return _head(params, x), {}


def _model(workload: workloads.Workload) -> Model:
    if workload.family == "mlp":
        return _mlp(workload)
    models = {
        "cnn": _cnn,
        "resnet20": _resnet20,
        "transformer": _transformer,
        "embedding": _embedding,
    }
    return models[workload.family]


def initial_state(workload: workloads.Workload) -> tuple[Params, Params, Any]:
    """Weights, moving statistics and the optimizer's state."""
    params = {name: jnp.asarray(v) for name, v in workloads.initial_weights(workload).items()}
    moving = {}
    for name, value in params.items():
        if name.endswith("/gamma"):
            layer = name.split("/")[0]
            moving[f"{layer}/mean"] = jnp.zeros_like(value)
            moving[f"{layer}/variance"] = jnp.ones_like(value)
    return params, moving, optimizer().init(params)


def optimizer() -> Any:
    """Clip by global norm, then Adam with the race's schedule."""
    schedule = optax.exponential_decay(
        workloads.LEARNING_RATE, workloads.DECAY_STEPS, workloads.DECAY_RATE
    )
    adam = optax.adam(schedule, workloads.BETA_1, workloads.BETA_2, workloads.EPSILON)
    return optax.chain(optax.clip_by_global_norm(workloads.CLIP_NORM), adam)


def update_function(workload: workloads.Workload) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """One step: (state, x, y) -> (state, loss)."""
    model, chain = _model(workload), optimizer()

    def loss_fn(params: Params, moving: Params, x: Any, y: Any) -> tuple[Any, Params]:
        logits, updated = model(params, moving, x)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return loss, updated

    def update(state: Any, x: Any, y: Any) -> tuple[Any, Any]:
        params, moving, slots = state
        value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, moving), gradients = value_and_grad(params, moving, x, y)
        updates, slots = chain.update(gradients, slots, params)
        return (optax.apply_updates(params, updates), moving, slots), loss

    return update


def batches(workload: workloads.Workload) -> tuple[Any, Any]:
    """The data on the device: x [batches, B, ...], y [batches, B, ...]."""
    x, y = workloads.examples(workload)
    shape = (workloads.DATA_BATCHES, workload.batch)
    return jnp.asarray(x.reshape(shape + x.shape[1:])), jnp.asarray(y.reshape(shape + y.shape[1:]))
