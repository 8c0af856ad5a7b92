"""What the loop does for the Keras models in a state: seeds from the step, statistics put back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from loop.compiled.compiled_loop import StepHook
from loop.compiled.purity import ImpureStepError
from loop.keras import adapter
from loop.step_context import StepContext
from loop.variables import listed, variable_of


@dataclasses.dataclass(frozen=True)
class KerasParts:
    """What the Keras models in a state need of the loop.

    Attributes:
      hooks: called at the start of each step; they set the models' seed generators from the seed,
        the global step and the replica's first position, and refuse draws without a seed.
      set_each_step: the variables that the hooks set.
      assigned: what the forward pass assigns, the models' non-trainable weights.
      recurrent: the names of the states of their stateful recurrent layers.
    """

    hooks: Sequence[StepHook]
    set_each_step: Sequence[tf.Variable]
    assigned: Sequence[tf.Variable]
    recurrent: Sequence[str]

    def require_one_state(self, replicas: int) -> None:
        """Refuses states of stateful recurrent layers on several replicas.

        Raises:
          ValueError: names them.
        """
        if replicas > 1 and self.recurrent:
            raise ValueError(
                f"Trainer: {listed(self.recurrent)} would be of other examples on each of the "
                f"{replicas} replicas, expected one value that a checkpoint can hold; use one "
                "replica, or stateful=False"
            )

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> KerasParts:
        """The parts of the models in a state, given as its owners by name."""
        layers = _layers(state)
        generators = [g for layer in layers for g in adapter.seed_generators(layer)]

        def set_seeds(context: StepContext) -> None:
            adapter.seed_from_step(
                generators, context.seed, context.global_step, context.positions[0]
            )

        return cls(
            hooks=[_refuse_unseeded, *([set_seeds] if generators else [])],
            set_each_step=[generator.state.value for generator in generators],
            assigned=[variable_of(w) for layer in layers for w in layer.non_trainable_weights],
            recurrent=[name for layer in layers for name in adapter.recurrent_states(layer)],
        )


def _refuse_unseeded(context: StepContext) -> None:
    """On several replicas; on one the trace shows the draw, and the step is refused for it."""
    if context.replicas > 1 and adapter.is_imported():
        adapter.refuse_unseeded_draws(
            ImpureStepError(
                f"Trainer: the step draws by keras.random without a seed on {context.replicas} "
                "replicas, expected random numbers of the seed and the global step; give "
                "keras.random a `seed=keras.random.SeedGenerator(...)` of a layer in `state=`"
            )
        )


def _layers(owner: Any) -> list[Any]:
    """The Keras layers in the state, which may hold mappings and sequences."""
    if isinstance(owner, Mapping):
        return [layer for value in owner.values() for layer in _layers(value)]
    if isinstance(owner, (list, tuple)):
        return [layer for value in owner for layer in _layers(value)]
    return [owner] if adapter.is_layer(owner) else []
