"""Arrays in TensorFlow's checkpoint format (a tensor bundle), the variables' names as its keys."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from loop.checkpoint.manifest import VariableEntry
from loop.checkpoint.values import Array

PREFIX = "state"
FILE_NAMES = (f"{PREFIX}.data-00000-of-00001", f"{PREFIX}.index")


def write_bundle(directory: Path, arrays: Mapping[str, Array]) -> None:
    """Writes the two files of a bundle into `directory`; `tf.train.load_checkpoint` reads them.

    Raises:
      tf.errors.OpError: as the file system does.
    """
    names = sorted(arrays)
    with tf.device("/CPU:0"):
        tf.raw_ops.SaveV2(
            prefix=os.fsencode(directory / PREFIX),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tf.convert_to_tensor(arrays[name]) for name in names],
        )


def read_bundle(directory: Path, variables: Mapping[str, VariableEntry]) -> dict[str, Array]:
    """Reads the named tensors into host memory.

    By TensorFlow's operation, not by `tf.train.load_checkpoint`: that reader ends the process with
    a segmentation fault when a block of the index cannot be read (TF 2.21).

    Raises:
      TypeError: if a dtype is unknown to TensorFlow.
      tf.errors.OpError: if one is missing, of another dtype, or fails the format's own checksum.
    """
    names = sorted(variables)
    with tf.device("/CPU:0"):
        tensors = tf.raw_ops.RestoreV2(
            prefix=os.fsencode(directory / PREFIX),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            dtypes=[tf.as_dtype(variables[name].dtype) for name in names],
        )
    return {name: np.asarray(tensor) for name, tensor in zip(names, tensors, strict=True)}
