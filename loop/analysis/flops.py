"""The floating-point operations of a step, counted in its graph."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kernels import target
from loop.feeds import Feed
from loop.single_step import SingleStep

_CONVOLUTIONS = ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter")


def of_step(step: Callable[[Any], Any], feed: Feed) -> int:
    """Operations of a step's matrix products and 2-D convolutions, forward and backward.

    A multiplication and an addition count as two, as in papers and in
    `tf.compat.v1.profiler`. What is done element by element is not counted: it is small beside
    these, or memory limits it. The global batch is counted, on however many replicas it runs; a
    loop inside the model counts once. Traces the step; runs nothing and does not change the state.

    Args:
      step: a `GradientStep` or any step function.
      feed: for the shapes of a batch.
    """
    if getattr(step, "accumulate", 1) != 1:
        # Micro-batches do the work of the whole batch, but in a loop of unknown length.
        step = copy.copy(step)
        step.accumulate = 1  # type: ignore[attr-defined]
    first = SingleStep(feed, 0)

    def traced() -> list[Any]:
        # Without XLA's forms: those would hide convolutions in products of another size.
        with target.tracing_for("graph"), first.batch() as batch:
            return list(step(batch).values())

    return of_graph(tf.function(traced, autograph=False).get_concrete_function().graph)


def of_graph(graph: Any) -> int:
    """Operations of a graph's matrix products and 2-D convolutions, in functions it calls too.

    Raises:
      ValueError: if one has no static shape.
    """
    total = 0
    for operation in _needed(graph):
        total += _operations(operation)
        for name in _called(operation):
            total += of_graph(graph._get_function(name).graph)
    return total


def _needed(graph: Any) -> list[Any]:
    """The operations that run: TensorFlow's gradient functions make some that nothing uses."""
    waiting = [tensor.op for tensor in graph.outputs] + list(graph.control_outputs)
    found = {}
    while waiting:
        operation = waiting.pop()
        if operation.name not in found:
            found[operation.name] = operation
            waiting += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
    return list(found.values())


def _called(operation: Any) -> list[str]:
    """The functions that an operation calls; of a condition, one branch."""
    names = []
    for attribute in ("f", "body", "then_branch"):
        if attribute in operation.node_def.attr:
            names.append(operation.node_def.attr[attribute].func.name)
    return [name for name in names if name]


def _operations(operation: Any) -> int:
    kind = operation.type
    if kind == "MatMul":
        left = _shape(operation.inputs[0])
        inner = left[0] if operation.get_attr("transpose_a") else left[1]
        return 2 * math.prod(_shape(operation.outputs[0])) * inner
    if kind in ("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
        left = _shape(operation.inputs[0])
        inner = left[-2] if operation.get_attr("adj_x") else left[-1]
        return 2 * math.prod(_shape(operation.outputs[0])) * inner
    if kind in _CONVOLUTIONS:
        return _convolution(operation)
    return 0


def _convolution(operation: Any) -> int:
    """2 for each tap of each channel into each element of the forward output."""
    kind = operation.type
    if kind == "Conv2D":
        output, kernel = operation.outputs[0], operation.inputs[1]
    elif kind == "Conv2DBackpropInput":
        output, kernel = operation.inputs[2], operation.inputs[1]
    else:
        output, kernel = operation.inputs[2], operation.outputs[0]
    height, width, channels, _ = _shape(kernel)
    return 2 * math.prod(_shape(output)) * height * width * channels


def _shape(tensor: Any) -> list[int]:
    if not tensor.shape.is_fully_defined():
        raise ValueError(
            f"flops: {tensor.name} of the step has shape {tensor.shape}; expected a static one"
        )
    shape: list[int] = tensor.shape.as_list()
    return shape
