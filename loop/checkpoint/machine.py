"""What a resume must share with the saved run to be bit-exact, besides the configuration."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf


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
