"""How a run differs from another: in its metadata, in its machine, in its values."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from loop.checkpoint.values import Array, describe_variable, raw_bytes

_LONGEST_VALUE = 200


def _processor() -> str:
    """The CPU's model name; the machine's type where the system does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """The software, processor and threads this process computes with, as JSON values.

    Two runs that agree in these, in seed, configuration, replicas and compile mode end with the
    same bits. A thread count of 0 in TensorFlow means one for each processor the process may use;
    that number is given.
    """
    processors = len(os.sched_getaffinity(0))
    threading = tf.config.threading
    return {
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "cpu": _processor(),
        "gpus": [
            str(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name))
            for gpu in tf.config.get_visible_devices("GPU")
        ],
        "intra_op_threads": threading.get_intra_op_parallelism_threads() or processors,
        "inter_op_threads": threading.get_inter_op_parallelism_threads() or processors,
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key in value:
            yield from _leaves(value[key], f"{name}.{key}" if name else str(key))
    else:
        yield name, list(value) if isinstance(value, tuple) else value


def changed(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """The dotted names ("configuration.learning_rate") whose values differ, sorted.

    Nested maps are compared leaf by leaf, lists as wholes; 1, 1.0 and True are three values.
    """
    old, new = dict(_leaves(saved, "")), dict(_leaves(current, ""))

    def same(name: str) -> bool:
        return name in old and name in new and repr(old[name]) == repr(new[name])

    return sorted(name for name in old.keys() | new.keys() if name and not same(name))


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """One line for each value that differs: `name: saved X, now Y`, by name.

    Args:
      saved: a checkpoint's metadata, or a part of it.
      current: the same part of the run that resumes.
    """
    old, new = dict(_leaves(saved, "")), dict(_leaves(current, ""))
    return [
        f"{name}: saved {_shown(old[name]) if name in old else 'nothing'}, "
        f"now {_shown(new[name]) if name in new else 'nothing'}"
        for name in changed(saved, current)
    ]


def _shown(value: Any) -> str:
    """The value, cut where it is long: a run's evaluations are thousands of numbers."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


@dataclasses.dataclass(frozen=True)
class VariableDifference:
    """How one variable differs between two checkpoints.

    Attributes:
      what: how many elements differ in any bit, or both dtypes and shapes if those differ.
      largest: the largest absolute difference (NaN if one side is not finite where they differ);
        None if dtypes or shapes differ.
      mean: the mean absolute difference over all elements; None likewise.
      scale: the largest absolute value of the first.
    """

    what: str
    largest: float | None
    mean: float | None
    scale: float | None

    def cells(self) -> list[str]:
        """The four attributes as text."""
        numbers = (self.largest, self.mean, self.scale)
        return [self.what, *("-" if number is None else f"{number:.3g}" for number in numbers)]


def variable_difference(first: Array, second: Array) -> VariableDifference | None:
    """How two values differ; None if they agree in dtype, shape and every bit."""
    a, b = describe_variable(first), describe_variable(second)
    if a != b:
        return VariableDifference(f"{a} / {b}", None, None, None)
    if first.size == 0:
        return None
    width = first.dtype.itemsize
    bits = [
        np.frombuffer(raw_bytes(value), np.uint8).reshape(-1, width) for value in (first, second)
    ]
    differing = (bits[0] != bits[1]).any(axis=1)
    if not differing.any():
        return None
    wide = np.complex128 if first.dtype.kind == "c" else np.float64
    with np.errstate(invalid="ignore", over="ignore"):
        old, new = first.astype(wide).reshape(-1), second.astype(wide).reshape(-1)
        distance = np.where(differing, np.abs(new - old), 0.0)
        return VariableDifference(
            f"{int(differing.sum())} of {first.size}",
            float(distance.max()),
            float(distance.mean()),
            float(np.abs(old).max()),
        )
