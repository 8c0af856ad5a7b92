"""The only file that knows Keras: its variables, layers and seed generators.

Keras is imported where one of its objects is met, not before: a program without Keras objects
should not wait for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from kernels import random


def is_variable(value: Any) -> bool:
    """Whether `value` is a Keras variable (never true before Keras was imported)."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(value, keras.Variable)


def is_layer(value: Any) -> bool:
    """Whether `value` is a Keras layer or model."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(value, keras.layers.Layer)


def seed_generators(owner: Any) -> list[Any]:
    """The `keras.random.SeedGenerator`s of a layer or model and all that it contains."""
    return list(_seed_generators(owner))


def _seed_generators(layer: Any) -> Iterator[Any]:
    yield from getattr(layer, "_seed_generators", [])
    for inner in getattr(layer, "_layers", []):
        yield from _seed_generators(inner)


def seed_from_step(generators: list[Any], seed: tf.Tensor, global_step: tf.Tensor) -> None:
    """Sets each generator's state from (seed, global step), so that a resume repeats its draws.

    `tf.train.Checkpoint` loses this state, and a state that is advanced by use could not tell step
    100 of a resumed run from step 100 of an uncut one. To be called inside a step.

    Args:
      generators: from `seed_generators`; each is told apart by its place in the list.
      seed: int64 scalar.
      global_step: int64 scalar.
    """
    for place, generator in enumerate(generators):
        variable = generator.state.value
        drawn = random.bits(
            seed, f"keras.SeedGenerator/{place}", global_step, tf.constant([0]), (2,)
        )
        tf.raw_ops.AssignVariableOp(
            resource=variable.handle, value=tf.bitcast(drawn[0], variable.dtype)
        )
