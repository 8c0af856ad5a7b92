"""A method as a `tf.function` that is let go, with all that it captured, together with its owner.

A `tf.function` of a bound method is a cycle with the method's owner, and a graph is one by itself:
both stay until Python looks for cycles, which it does by the number of objects, whatever their
size. A notebook's cell that is run again would hold each run's data. Some graphs stay for good,
since TensorFlow's registry of gradients holds every graph in which a `tf.custom_gradient` was
traced; such a graph must at least not hold the data.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import func_graph


def weak_method(method: Callable[..., Any]) -> Callable[..., Any]:
    """A bound method for its own object to hold: without a strong reference back to it."""
    reference = weakref.WeakMethod(method)

    def called(*arguments: Any) -> Any:
        found = reference()
        assert found is not None
        return found(*arguments)

    return called


def traced_method(method: Callable[..., Any], **options: Any) -> Any:
    """A `tf.function` that calls a bound method, for the method's own object to hold.

    Args:
      method: of an object that alone calls what this returns: when the object is collected, the
        graphs are taken apart.
      options: of `tf.function`.
    """
    graphs: list[Any] = []
    owner: Any = getattr(method, "__self__")  # noqa: B009 - unknown to the type of a callable
    weakref.finalize(owner, take_apart, graphs).atexit = False
    weak = weak_method(method)

    def called(*arguments: Any) -> Any:
        graphs.append(tf.compat.v1.get_default_graph())
        return weak(*arguments)

    return tf.function(called, autograph=False, **options)


def take_apart(graphs: list[Any]) -> None:
    """Clears the list: what the graphs captured is let go, and so are the cycles in them."""
    while graphs:
        graph = graphs.pop()
        func_graph.dismantle_func_graph(graph)
        list(graph.captures)  # The look makes anew the list of them that the graph caches.
