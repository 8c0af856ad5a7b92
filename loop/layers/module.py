"""A base for layers and models that hold variables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from loop.keras import adapter


class Module:
    """Holds variables and other modules as plain attributes, lists or dicts of these.

    Attributes:
      state: name -> variable, in the order of definition. The names are the variables' own.
      trainable_variables: the trainable ones, in the same order.

    Raises:
      TypeError: from `state`, where an attribute holds a Keras or `tf.Module` object: such
        variables would be missed by a resume, so give that object to the state map itself.
      ValueError: from `state`, where two variables share a name.
    """

    @property
    def state(self) -> dict[str, tf.Variable]:
        """All variables by name."""
        state: dict[str, tf.Variable] = {}
        for variable in _variables(self, type(self).__name__):
            name = variable.name.split(":")[0]
            if name in state and state[name] is not variable:
                raise ValueError(f"{type(self).__name__}: two variables are named {name!r}")
            state[name] = variable
        return state

    @property
    def trainable_variables(self) -> list[tf.Variable]:
        """The variables that gradients train."""
        return [variable for variable in self.state.values() if variable.trainable]


def _variables(value: Any, where: str) -> Iterator[tf.Variable]:
    if isinstance(value, tf.Variable):
        yield value
    elif isinstance(value, Module):
        for key, attribute in vars(value).items():
            yield from _variables(attribute, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _variables(item, f"{where}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _variables(item, f"{where}[{key!r}]")
    elif isinstance(value, tf.Module) or adapter.is_layer(value):
        raise TypeError(
            f"{where}: a {type(value).__name__} inside a Module hides its variables; pass it to "
            "the state map by a name of its own"
        )
