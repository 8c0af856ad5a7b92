"""A run's state on the host: real copies of the variables, their hash, and setting them again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from loop import handles
from loop.checkpoint.manifest import VariableEntry

Array = npt.NDArray[Any]


def components(name: str, variable: tf.Variable) -> tuple[tf.Variable, ...]:
    """A variable's copies on the replicas, primary first; itself if it is not distributed.

    Raises:
      TypeError: if it holds another value on each replica by design (ON_READ with several
        replicas): its primary value is not its state.
    """
    replicas: tuple[tf.Variable, ...] = tuple(getattr(variable, "values", ())) or (variable,)
    if len(replicas) > 1 and variable.synchronization == tf.VariableSynchronization.ON_READ:
        raise TypeError(
            f"state: variable {name!r} holds another value on each of {len(replicas)} replicas "
            "(synchronization ON_READ), so one value cannot stand for it; reduce it into a "
            "mirrored variable"
        )
    return replicas


def read(variable: tf.Variable) -> Array:
    """The value of a variable that is not distributed; on a CPU it shares the variable's memory.

    The operation itself and no `numpy()`: `Variable.numpy()` copies, and takes four times as long
    (35 us each, which in a model of 300 variables would be felt as a pause of 10 ms).
    """
    return np.asarray(handles.read(variable))


def check_state(state: Mapping[str, tf.Variable]) -> None:
    """Refuses a map that is not name -> variable of a numeric or boolean type.

    Raises:
      TypeError: names the entry.
      ValueError: if the map is empty or a name cannot be stored.
    """
    if not state:
        raise ValueError("state: expected at least one variable, got none")
    for name, variable in state.items():
        if not isinstance(name, str) or not name or "\0" in name:
            raise ValueError(f"state: names must be non-empty strings without NUL, got {name!r}")
        dtype = getattr(variable, "dtype", None)
        if not hasattr(variable, "assign") or not isinstance(dtype, tf.DType):
            raise TypeError(f"state[{name!r}]: expected a tf.Variable, got {type(variable)}")
        if dtype in (tf.string, tf.resource, tf.variant):
            raise TypeError(f"state[{name!r}]: a {dtype.name} variable cannot be checkpointed")
        components(name, variable)


def describe_variable(value: tf.Variable | Array) -> VariableEntry:
    """The dtype and shape of a variable or array, as the manifest writes them."""
    return VariableEntry(tf.as_dtype(value.dtype).name, tuple(int(size) for size in value.shape))


def copy_to_host(
    state: Mapping[str, tf.Variable], buffers: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Copies the state to host memory; later updates of the variables do not reach the copies.

    What is read shares the variable's memory on a CPU, so each value is copied, once.

    Args:
      state: name -> variable.
      buffers: arrays of an earlier copy to write into where name, dtype and shape agree, which
        saves the page faults of fresh memory.

    Returns:
      name -> array, each its own memory, C order.

    Raises:
      TypeError: on an entry that is not a plain or mirrored numeric variable.
      ValueError: if the map is empty.
    """
    check_state(state)
    copies: dict[str, Array] = {}
    for name, variable in state.items():
        value = read(components(name, variable)[0])
        buffer = buffers.get(name) if buffers else None
        if buffer is None or buffer.dtype != value.dtype or buffer.shape != value.shape:
            copies[name] = np.array(value, order="C", copy=True)
        else:
            np.copyto(buffer, value)
            copies[name] = buffer
    return copies


def assign(state: Mapping[str, tf.Variable], values: Mapping[str, Array]) -> None:
    """Sets every variable, on every replica, to its value."""
    for name, variable in state.items():
        for replica in components(name, variable):
            replica.assign(values[name])


def raw_bytes(array: Array) -> memoryview:
    """An array's elements as little-endian bytes in C order, whatever its type (bfloat16 too)."""
    contiguous = np.ascontiguousarray(array)
    if contiguous.dtype.byteorder == ">":
        contiguous = contiguous.astype(contiguous.dtype.newbyteorder("<"))
    return contiguous.reshape(-1).view(np.uint8).data


def state_sha256(state: Mapping[str, tf.Variable | Array]) -> str:
    """SHA-256 of a state: equal if and only if names, dtypes, shapes and all bits are equal.

    The hashed bytes are, for each name in the order of its UTF-8 bytes: the name, NUL, TensorFlow's
    name of the dtype, NUL, the sizes of the shape in decimal joined by commas, NUL, the elements in
    C order, little-endian. A mirrored variable counts with its primary replica's value.

    Args:
      state: name -> variable or array.

    Returns:
      64 lower-case hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(state, key=lambda name: name.encode("utf-8")):
        value = state[name]
        array = value if isinstance(value, np.ndarray) else read(components(name, value)[0])
        entry = describe_variable(array)
        shape = ",".join(map(str, entry.shape))
        digest.update(f"{name}\0{entry.dtype}\0{shape}\0".encode())
        digest.update(raw_bytes(array))
    return digest.hexdigest()
