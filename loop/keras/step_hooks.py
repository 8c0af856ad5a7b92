"""What the loop does for the Keras models in a state: seeds from the step, statistics put back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from loop.compiled.compiled_loop import StepHook
from loop.keras import adapter
from loop.step_context import StepContext
from loop.variables import variable_of


def _layers(owner: Any) -> list[Any]:
    """The Keras layers in the state, which may hold mappings and sequences."""
    if isinstance(owner, Mapping):
        return [layer for value in owner.values() for layer in _layers(value)]
    if isinstance(owner, (list, tuple)):
        return [layer for value in owner for layer in _layers(value)]
    return [owner] if adapter.is_layer(owner) else []


def seed_hooks(state: Mapping[str, Any]) -> list[StepHook]:
    """Sets the seed generators of Keras models in the state from (seed, step) at each step."""
    layers = _layers(state)
    generators = [g for layer in layers for g in adapter.seed_generators(layer)]
    if not generators:
        return []

    def set_seeds(context: StepContext) -> None:
        adapter.seed_from_step(generators, context.seed, context.global_step)

    return [set_seeds]


def set_each_step(state: Mapping[str, Any]) -> list[tf.Variable]:
    """The variables that the hooks set at the start of each step: states of seed generators."""
    return [
        generator.state.value
        for layer in _layers(state)
        for generator in adapter.seed_generators(layer)
    ]


def statistics(state: Mapping[str, Any]) -> list[Any]:
    """What the forward pass of Keras models assigns: their non-trainable weights."""
    return [
        variable_of(weight) for layer in _layers(state) for weight in layer.non_trainable_weights
    ]
