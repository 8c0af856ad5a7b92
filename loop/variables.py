"""The state of a run as an explicit map: name -> variable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
      owner: a mapping or sequence of owners, a variable, anything with a `state` mapping
        (optimizers, layers), a Keras model, layer, metric or optimizer, or a `tf.Module`. A Keras
        layer's are its weights and the states of its stateful recurrent layers.

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
    if isinstance(owner, (list, tuple)):
        return named({str(place): value for place, value in enumerate(owner)})
    if adapter.is_layer(owner):
        weights = ((name_of(weight), variable_of(weight)) for weight in owner.weights)
        return _unique((*weights, *adapter.recurrent_states(owner).items()))
    state = getattr(owner, "state", None)
    if isinstance(state, Mapping):
        return _unique((name, variable_of(variable)) for name, variable in state.items())
    if adapter.holds_variables(owner):
        return _unique((name_of(variable), variable_of(variable)) for variable in owner.variables)
    if isinstance(owner, tf.Module):
        paths = owner._flatten(
            predicate=lambda value: isinstance(value, tf.Variable), with_path=True
        )
        return _unique(("/".join(map(str, path)), variable) for path, variable in paths)
    raise TypeError(
        f"state: cannot tell the variables of {type(owner).__name__}; give a variable, a Keras "
        "model or metric, a tf.Module, an object with a `state` mapping, or a mapping or list of "
        "these"
    )


def with_brought(state: State, step: Any) -> State:
    """The state with the variables that the step brings and that are not in it yet.

    A `GradientStep` brings its optimizer and what it trains, so that nobody has to name them twice.

    Args:
      state: name -> variable, as declared.
      step: any step; what it brings is named "step/...".
    """
    known = {id(variable) for variable in state.values()}
    brought = named({"step": getattr(step, "brings", {})})
    return state | {name: v for name, v in brought.items() if id(v) not in known}


def require_scope(state: State, replicas: int) -> None:
    """Refuses variables that several replicas cannot hold as one value.

    One that was made outside their scope has one copy, which each would read and write. One that
    is synchronised when it is read (a Keras metric's) has another value on each, as have the rows
    that a stateful recurrent layer keeps; a checkpoint holds one value.

    Raises:
      ValueError: names them.
    """
    if replicas == 1:
        return
    on_read = tf.VariableSynchronization.ON_READ
    parts = [n for n, v in state.items() if v.synchronization == on_read]
    if parts:
        raise ValueError(
            f"Trainer: {listed(parts)} {'has' if len(parts) == 1 else 'have'} another value on "
            f"each of the {replicas} replicas (synchronization ON_READ, as Keras's metrics), "
            "expected one value that a checkpoint can hold; return the metric from the step or use "
            "it in an Evaluation, or, where no resume needs it, give its variables to `scratch=`"
        )
    outside = [n for n, v in state.items() if not isinstance(v, tf.distribute.DistributedValues)]
    if outside:
        raise ValueError(
            f"Trainer: {listed(outside)} {'was' if len(outside) == 1 else 'were'} made outside the "
            f"scope of the {replicas} replicas, which would all write one copy; make models, "
            "optimizers and variables inside `with replicas.scope():`"
        )


def listed(names: Sequence[str], most: int = 8) -> str:
    """The names in quotes, the first `most` of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more


def _unique(pairs: Iterable[tuple[str, tf.Variable]]) -> State:
    state: State = {}
    for name, variable in pairs:
        if name in state:
            raise ValueError(f"state: two variables are named {name!r}; give their owners names")
        state[name] = variable
    return state
