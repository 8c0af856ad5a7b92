"""Where in an eager computation the first value that is not finite arises, operation by operation.

TensorFlow's own `tf.debugging.enable_check_numerics` stops at the first infinity it sees, also at
one that is meant (the padding of a max pooling, a mask), and does not tell of which forward
operation a backward one is the gradient.
"""

from __future__ import annotations

import contextlib
import dataclasses
import linecache
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from loop import handles
from loop.keras import adapter
from loop.layers.module import Module

_OWN = frozenset(
    str(Path(__file__).parent.parent / name)
    for name in (
        "nonfinite/origins.py",
        "nonfinite/examination.py",
        "single_step.py",
        "step.py",
        "gradients.py",
        "keras/adapter.py",
    )
)
_LIBRARIES = tuple(os.path.dirname(str(module.__file__)) + os.sep for module in (tf, np))
_STANDARD_LIBRARY = str(Path(os.__file__).parent)


@dataclasses.dataclass(frozen=True)
class Site:
    """A line of code that is not TensorFlow's own."""

    file: str
    line: int
    layer: str | None

    def __str__(self) -> str:
        """`file:line, in layer 'name': code`."""
        code = linecache.getline(self.file, self.line).strip()
        layer = f", in layer {self.layer!r}" if self.layer else ""
        return f"{self.file}:{self.line}{layer}: {code}"


@dataclasses.dataclass(frozen=True)
class Origin:
    """An operation whose inputs are all finite and whose output is not.

    Attributes:
      operation: TensorFlow's name of its type.
      site: the line of code that ran it.
      forward: the name and site of the forward operation (or function with a gradient of its own)
        whose gradient it is part of; None where it is itself of the forward pass.
      backward: whether it is of the backward pass.
      variables: the names of the variables among its inputs.
      inputs: what its inputs are, one text each.
      output: what its output is.
    """

    operation: str
    site: Site | None
    backward: bool
    forward: tuple[str, Site | None] | None
    variables: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str

    @property
    def key(self) -> tuple[str, Site | None, bool]:
        """Equal for the same line of code in another run of it."""
        return self.operation, self.site, self.backward

    def __str__(self) -> str:
        """In one line."""
        where = f" at {self.site}" if self.site else ""
        if self.forward is not None:
            operation, site = self.forward
            where += f", in the gradient of {operation}" + (f" at {site}" if site else "")
        variables = f"; variables {', '.join(self.variables)}" if self.variables else ""
        return (
            f"{'backward' if self.backward else 'forward'} pass, operation {self.operation}{where}"
            f"{variables}; inputs: {', '.join(self.inputs) or 'none'}; output: {self.output}"
        )


def describe(array: npt.NDArray[Any]) -> str:
    """Shape, type, how many values are NaN or infinite, and the range of the finite ones."""
    numbers = np.asarray(array)
    text = f"{numbers.dtype.name}{list(numbers.shape)}"
    if not is_number(numbers):
        return text
    finite = np.isfinite(numbers)
    nan = int(np.isnan(numbers).sum())
    infinite = numbers.size - int(finite.sum()) - nan
    parts = [f"{count} {kind}" for count, kind in ((nan, "NaN"), (infinite, "infinite")) if count]
    if finite.any():
        real = np.abs(numbers) if np.iscomplexobj(numbers) else numbers
        kept = real[finite].astype(np.float64)
        parts.append(f"from {kept.min():g} to {kept.max():g}")
    return f"{text} {', '.join(parts)}" if parts else text


def is_number(array: npt.NDArray[Any]) -> bool:
    """Whether the type has values that are not finite; bfloat16 counts, which NumPy calls V."""
    return bool(tf.as_dtype(array.dtype).is_floating or tf.as_dtype(array.dtype).is_complex)


def all_finite(array: npt.NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite."""
    return not is_number(array) or bool(np.isfinite(array).all())


class Watch:
    """Notes every operation of the eager computations in its `with` block.

    Functions of `tf.function` in it run operation by operation too.

    Args:
      names: variable -> its name, by the variable's handle's id.

    Attributes:
      origins: the operations that made a value that is not finite out of finite ones, in order.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self.origins: list[Origin] = []
        self._handles = names
        self._names: dict[int, str] = {}  # what was read from a variable
        self._made: dict[int, tuple[str, Site | None]] = {}
        self._taken: dict[tuple[str, int], tuple[str, Site | None]] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[Watch]:
        """Watches inside the `with` block."""
        from tensorflow.python.framework import op_callbacks

        eager = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(True)
        op_callbacks.add_op_callback(self._note)
        try:
            yield self
        finally:
            op_callbacks.remove_op_callback(self._note)
            tf.config.run_functions_eagerly(eager)

    def _note(
        self,
        op_type: str | bytes,
        inputs: Sequence[Any],
        attributes: Any,
        outputs: Sequence[Any],
        op_name: str | None = None,
        graph: Any = None,
    ) -> None:
        """What TensorFlow calls after each operation."""
        del attributes, op_name
        if graph is None:
            # The type is bytes where Python's own wrapper was not used.
            self._look(tf.compat.as_str(op_type), inputs, outputs, sys._getframe(1))

    def _look(
        self, operation: str, inputs: Sequence[Any], outputs: Sequence[Any], start: FrameType
    ) -> None:
        is_read = operation == "ReadVariableOp"
        if is_read and inputs[0]._id in self._handles:
            self._names[outputs[0]._id] = self._handles[inputs[0]._id]
        backward, forward = self._gradient_of(start)
        site = _site(start)
        if not backward:
            for tensor in outputs:
                self._made[tensor._id] = (operation, site)
            for tensor in inputs:
                self._taken[operation, tensor._id] = (operation, site)
        if all(_finite(tensor) for tensor in outputs):
            return
        if not is_read and not all(_finite(tensor) for tensor in inputs):
            return
        names = [self._names.get(tensor._id) or self._handles.get(tensor._id) for tensor in inputs]
        self.origins.append(
            Origin(
                operation,
                site,
                backward,
                forward,
                tuple(dict.fromkeys(name for name in names if name)),
                tuple(_text(tensor) for tensor in inputs if tensor.dtype != tf.resource),
                ", ".join(_text(tensor) for tensor in outputs if not _finite(tensor)),
            )
        )

    def _gradient_of(self, start: FrameType) -> tuple[bool, tuple[str, Site | None] | None]:
        """Whether a frame is in a backward pass, and of which forward operation's gradient."""
        frame: FrameType | None = start
        forward = None
        while frame is not None:
            code = frame.f_code
            if code.co_name == "_gradient_function" and "op_name" in frame.f_locals:
                held = frame.f_locals
                forward = self._forward(
                    tf.compat.as_str(held["op_name"]), held["inputs"], held["outputs"]
                )
            if code.co_name == "actual_grad_fn" and "grad_fn" in frame.f_locals:
                held = frame.f_locals
                name = held["grad_fn"].__qualname__.split(".<locals>")[0]
                results = tf.nest.flatten(held.get("result"))
                forward = name, self._forward(name, (), results)[1]
            if code.co_filename.endswith("imperative_grad.py"):
                return True, forward
            frame = frame.f_back
        return False, None

    def _forward(
        self, operation: str, inputs: Sequence[Any], outputs: Sequence[Any]
    ) -> tuple[str, Site | None]:
        for tensor in outputs or ():
            if getattr(tensor, "_id", None) in self._made:
                return operation, self._made[tensor._id][1]
        for tensor in inputs or ():
            found = self._taken.get((operation, getattr(tensor, "_id", -1)))
            if found is not None:
                return operation, found[1]
        return operation, None


def _finite(tensor: Any) -> bool:
    kind = tensor.dtype
    return not (kind.is_floating or kind.is_complex) or all_finite(tensor.numpy())


def _text(tensor: Any) -> str:
    if tensor.dtype in (tf.variant, tf.string):
        return str(tensor.dtype.name)
    return describe(tensor.numpy())


def _site(frame: FrameType | None) -> Site | None:
    """The innermost line of code of the user's or of the kernels, and the innermost layer."""
    found: FrameType | None = None
    layer: str | None = None
    while frame is not None and (found is None or layer is None):
        file = frame.f_code.co_filename
        if file in _OWN:
            # Outside this is the loop itself; the layers are within.
            break
        if found is None and _is_code(file):
            found = frame
        owner = frame.f_locals.get("self")
        if layer is None and owner is not None:
            layer = _layer_name(owner)
        frame = frame.f_back
    if found is None:
        return None
    return Site(found.f_code.co_filename, found.f_lineno, layer)


def _is_code(file: str) -> bool:
    if os.path.dirname(file) == _STANDARD_LIBRARY or f"{os.sep}keras{os.sep}" in file:
        return False
    if file == handles.__file__:  # Whoever reads a variable is meant.
        return False
    return not file.startswith(_LIBRARIES)


def _layer_name(owner: Any) -> str | None:
    if adapter.is_layer(owner):
        return str(owner.name)
    if not isinstance(owner, Module):
        return None
    named = getattr(owner, "name", None)
    if isinstance(named, str):
        return named
    try:
        names = [name.split("/")[:-1] for name in owner.state]
    except (TypeError, ValueError):  # Its state is not a layer's own; the message does without.
        return None
    shared = [
        parts[0] for parts in zip(*names, strict=False) if len(set(parts)) == 1
    ]  # Sizes of names differ: the shortest bounds what is shared.
    return "/".join(shared) or None
