# mypy: disable-error-code="import-not-found"
"""JAX and optax, state donated, data resident: a jitted call a step, or many in one `lax.scan`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.benchmark import workloads
from experiments.benchmark.contenders import base, models
from experiments.benchmark.contenders.models import Operations

Params = dict[str, Any]


def _operations(params: Params, moving: Params, updated: Params) -> Operations:
    """On these weights; `updated` gets the new moving statistics."""

    def dense(layer: str, x: Any) -> Any:
        y, bias = x @ params[f"{layer}/kernel"], params.get(f"{layer}/bias")
        return y if bias is None else y + bias

    def convolve(i: int, x: Any, stride: int) -> Any:
        return jax.lax.conv_general_dilated(
            *(x, params[f"conv{i}/kernel"], (stride, stride), "SAME"),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def batch_norm(i: int, x: Any, relu: bool) -> Any:
        axes = tuple(range(x.ndim - 1))
        mean = x.mean(axes)
        variance = jnp.maximum((x * x).mean(axes) - mean * mean, 0.0)
        for name, value in ((f"bn{i}/mean", mean), (f"bn{i}/variance", variance)):
            change = (value - moving[name]) * (1 - workloads.BATCH_NORM_MOMENTUM)
            updated[name] = moving[name] + change
        root = jax.lax.rsqrt(variance + workloads.BATCH_NORM_EPSILON)
        scale = params[f"bn{i}/gamma"] * root
        y = x * scale + (params[f"bn{i}/beta"] - mean * scale)
        return jax.nn.relu(y) if relu else y

    def pool_and_relu(x: Any) -> Any:
        # By a reshape: its gradient is far cheaper on a CPU than reduce_window's.
        b, h, w, c = x.shape
        return jax.nn.relu(x).reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))

    def layer_norm(layer: str, x: Any) -> Any:
        mean = x.mean(-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(-1, keepdims=True)
        x = (x - mean) * jax.lax.rsqrt(variance + workloads.LAYER_NORM_EPSILON)
        return x * params[f"{layer}/scale"] + params[f"{layer}/bias"]

    def attend(layer: str, x: Any) -> Any:
        heads = (*x.shape[:2], workloads.TRANSFORMER.heads, -1)
        names = (f"{layer}/{name}" for name in ("query", "key", "value"))
        parts = (dense(name, x).reshape(heads) for name in names)
        return jax.nn.dot_product_attention(*parts, is_causal=True).reshape(x.shape)

    return Operations(
        dense=dense,
        convolve=convolve,
        batch_norm=batch_norm,
        relu=jax.nn.relu,
        pool_and_relu=pool_and_relu,
        flatten=lambda x: x.reshape(x.shape[0], -1),
        mean=lambda x: x.mean((1, 2)),
        shorten=lambda x, pad: jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (pad, pad))),
        embed=lambda tokens: params["token/table"][tokens] + params["position/table"],
        layer_norm=layer_norm,
        attend=attend,
        gelu=lambda x: jax.nn.gelu(x, approximate=True),
        mean_row=lambda ids: params["rows/table"][ids].mean(1),
    )


def _optimizer() -> Any:
    """Clip by global norm, then Adam with the race's schedule."""
    schedule = optax.exponential_decay(
        workloads.LEARNING_RATE, workloads.DECAY_STEPS, workloads.DECAY_RATE
    )
    adam = optax.adam(schedule, workloads.BETA_1, workloads.BETA_2, workloads.EPSILON)
    return optax.chain(optax.clip_by_global_norm(workloads.CLIP_NORM), adam)


def _initial_state(workload: workloads.Workload) -> tuple[Params, Params, Any]:
    """Weights, moving statistics and the optimizer's state."""
    params = {name: jnp.asarray(v) for name, v in workloads.initial_weights(workload).items()}
    scales = {name.split("/")[0]: v for name, v in params.items() if name.endswith("/gamma")}
    moving = {f"{layer}/mean": jnp.zeros_like(value) for layer, value in scales.items()}
    moving |= {f"{layer}/variance": jnp.ones_like(value) for layer, value in scales.items()}
    return params, moving, _optimizer().init(params)


def _update_function(workload: workloads.Workload) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """One step: (state, x, y) -> (state, loss)."""
    chain = _optimizer()

    def loss_fn(params: Params, moving: Params, x: Any, y: Any) -> tuple[Any, Params]:
        updated: Params = {}
        logits = models.logits(workload, _operations(params, moving, updated), x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), updated

    def update(state: Any, x: Any, y: Any) -> tuple[Any, Any]:
        params, moving, slots = state
        value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, moving), gradients = value_and_grad(params, moving, x, y)
        updates, slots = chain.update(gradients, slots, params)
        return (optax.apply_updates(params, updates), moving, slots), loss

    return update


class Contender(base.Base):
    """Dispatches call after call and waits for the state at the end.

    Args:
      workload: what to train.
      steps_per_call: the length of a scan; one of another length would be compiled anew.
      scan: whether a call is a scan.
    """

    def __init__(self, workload: workloads.Workload, steps_per_call: int, *, scan: bool) -> None:
        self._state = _initial_state(workload)
        self.fixed_calls = scan
        self.call_steps = steps_per_call if scan else 1
        self._next = 0
        update = _update_function(workload)
        examples = workloads.examples(workload)
        shape = (workloads.DATA_BATCHES, workload.batch)
        x, y = self._data = [jnp.asarray(each.reshape(shape + each.shape[1:])) for each in examples]
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
