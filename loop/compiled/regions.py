"""Parts of a step that are compiled by themselves, where the whole cannot be or had better not be.

A region is made of a function of tensors and called in its place; `StepContext.region` is the one
of the loop that traces.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kernels import target
from loop import step_context


class CollectiveInRegionError(RuntimeError):
    """A collective inside a jitted function on several replicas."""


def _refuse_collective(values: list[tf.Tensor]) -> list[tf.Tensor]:
    raise CollectiveInRegionError(
        f"compile=xla: a collective of {len(values)} tensors inside the jitted forward or backward "
        "pass (a synchronised BatchNorm?), which TensorFlow cannot run on these replicas; use "
        "compile=graph, or moments of each replica"
    )


def xla_region(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as a jitted function of its own, made anew for each replica's trace.

    One object shared by the replicas would serve the second from the first's trace, with the
    first's variables in it.
    """

    def traced(*arguments: Any) -> Any:
        context = step_context.current_or_none()
        with contextlib.ExitStack() as stack:
            stack.enter_context(target.tracing_for("xla"))
            if context is not None:
                inner = dataclasses.replace(context, all_reduce_sum=_refuse_collective)
                stack.enter_context(step_context.within(inner))
            return function(*arguments)

    compiled: Callable[..., Any] = tf.function(traced, jit_compile=True, autograph=False)
    return compiled


def graph_region(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as a graph of its own where a CPU is to pool backwards, else in line.

    On a CPU TensorFlow gives a MaxPoolGrad to oneDNN only if it came upon the MaxPool before, in an
    order that a graph with a loop in it leaves to chance (`MaxpoolGradRewrite` and
    `GetReversePostOrder` in mkl_layout_pass.cc); its own kernel takes ten times as long. A function
    that is not put in line has no loop around it, and costs some 50 us a call.
    """

    def called(*arguments: Any) -> Any:
        traced = tf.function(function, autograph=False).get_concrete_function(*arguments)
        kinds = {operation.type for operation in traced.graph.get_operations()}
        if "MaxPoolGrad" not in kinds or target.current().device != "cpu":
            return traced(*arguments)

        def region(*arguments: Any) -> Any:
            return traced(*arguments)

        apart = {"_noinline": True}
        return tf.function(region, autograph=False, experimental_attributes=apart)(*arguments)

    return called
