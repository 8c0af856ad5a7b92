"""The state of a run as an explicit map: name -> variable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from loop.keras import adapter

State = dict[str, tf.Variable]


def variable_of(variable: Any) -> tf.Variable:
    """The `tf.Variable` behind a TensorFlow or Keras variable.

    Raises:
      TypeError: if it is neither.
    """
    if isinstance(variable, tf.Variable):
        return variable
    if adapter.is_variable(variable):
        return variable.value
    raise TypeError(f"state: expected a tf.Variable or a Keras variable, got {type(variable)}")


def name_of(variable: Any) -> str:
    """The name a variable has in states, slots and messages: Keras's path, or TF's without ":0"."""
    if adapter.is_variable(variable):
        return str(variable.path)
    return str(variable.name).split(":")[0]


def components(variable: tf.Variable) -> tuple[tf.Variable, ...]:
    """The copies of a variable that this process holds: one on each replica, or itself."""
    return tuple(getattr(variable, "values", None) or (variable,))


def named(owner: Any) -> State:
    """The variables of one owner of state, by name.

    Args:
      owner: a mapping (of owners), a variable, or anything with a `state` mapping (optimizers,
        layers), or a Keras model or layer.

    Returns:
      name -> `tf.Variable`, in the owner's order.

    Raises:
      TypeError: if the owner is of no known kind. Nothing is discovered in unknown objects: what a
        search misses, a resume loses.
      ValueError: if two variables have one name.
    """
    if isinstance(owner, Mapping):
        return _unique(
            (f"{key}/{name}" if name else str(key), variable)
            for key, value in owner.items()
            for name, variable in named(value).items()
        )
    if isinstance(owner, tf.Variable) or adapter.is_variable(owner):
        return {"": variable_of(owner)}
    if adapter.is_layer(owner):
        return _unique((name_of(weight), variable_of(weight)) for weight in owner.weights)
    state = getattr(owner, "state", None)
    if isinstance(state, Mapping):
        return _unique((name, variable_of(variable)) for name, variable in state.items())
    raise TypeError(
        f"state: cannot tell the variables of {type(owner).__name__}; give a variable, a Keras "
        "model, an object with a `state` mapping, or a mapping of these"
    )


def _unique(pairs: Iterable[tuple[str, tf.Variable]]) -> State:
    state: State = {}
    for name, variable in pairs:
        if name in state:
            raise ValueError(f"state: two variables are named {name!r}; give their owners names")
        state[name] = variable
    return state
