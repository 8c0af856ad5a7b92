"""Which compiler and device a kernel is being traced for.

The fast form of an operation differs between TensorFlow's graph executor (oneDNN, cuDNN) and XLA,
and nothing in a traced graph tells which of them will run it. So the loop declares it, in one
place (`loop.compiled`), and kernels ask here. Without a declaration it is eager or graph.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Literal

import tensorflow as tf
from tensorflow.python.util import _pywrap_util_port

Compiler = Literal["eager", "graph", "xla"]
Device = Literal["cpu", "gpu"]


@dataclasses.dataclass(frozen=True)
class Target:
    """A compiler and the kind of device its code runs on."""

    compiler: Compiler
    device: Device

    @property
    def is_xla_cpu(self) -> bool:
        """Whether XLA:CPU runs the code: no oneDNN, slow convolutions inside loops."""
        return self.compiler == "xla" and self.device == "cpu"


# The one ambient value kernels read. A context variable, so that a trace in one thread (a replica)
# never changes what another thread sees.
_declared: contextvars.ContextVar[Target | None] = contextvars.ContextVar("target", default=None)


def default_device() -> Device:
    """The device kind TensorFlow places operations on by default: "gpu" if any is visible."""
    return "gpu" if tf.config.get_visible_devices("GPU") else "cpu"


def has_onednn() -> bool:
    """Whether TensorFlow runs its CPU operations by oneDNN.

    By default it does so only on processors with AVX512_VNNI or AVX512_BF16 (`IsMKLEnabled` in
    tensorflow/core/util/util.cc); TF_ENABLE_ONEDNN_OPTS decides otherwise.
    """
    return bool(_pywrap_util_port.IsMklEnabled())


def current() -> Target:
    """The target being traced for; undeclared, "eager" or "graph" as TensorFlow is executing."""
    declared = _declared.get()
    if declared is not None:
        return declared
    return Target("eager" if tf.executing_eagerly() else "graph", default_device())


@contextlib.contextmanager
def tracing_for(compiler: Compiler, device: Device | None = None) -> Iterator[Target]:
    """Declares the target of everything traced inside the `with` block.

    Args:
      compiler: "eager", "graph" or "xla".
      device: "cpu" or "gpu"; the default device's kind when None.

    Raises:
      ValueError: on any other compiler or device.
    """
    if compiler not in ("eager", "graph", "xla"):
        raise ValueError(f"target: compiler must be 'eager', 'graph' or 'xla', got {compiler!r}")
    if device not in (None, "cpu", "gpu"):
        raise ValueError(f"target: device must be 'cpu', 'gpu' or None, got {device!r}")
    target = Target(compiler, device or default_device())
    token = _declared.set(target)
    try:
        yield target
    finally:
        _declared.reset(token)
