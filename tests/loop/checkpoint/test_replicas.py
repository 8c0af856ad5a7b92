"""Checkpoints of mirrored variables, in a process of their own: two virtual CPUs."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

SCRIPT = """
import sys
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from loop import checkpoint

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
kernel = np.random.default_rng(0).normal(3.0, 2.0, (5, 4)).astype(np.float32)
plain = {"kernel": tf.Variable(kernel), "step": tf.Variable(7, dtype=tf.int64)}
with strategy.scope():
    mirrored = {"kernel": tf.Variable(kernel), "step": tf.Variable(7, dtype=tf.int64)}
    local = tf.Variable(
        [0.0],
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )
assert checkpoint.state_sha256(mirrored) == checkpoint.state_sha256(plain)
with checkpoint.AsynchronousSaver(sys.argv[1]) as saver:
    saver.save(7, mirrored, {"replicas": 2})
mirrored["kernel"].assign(kernel + 1)
restored = checkpoint.restore_latest(sys.argv[1], mirrored)
assert restored.metadata == {"replicas": 2}
values = [value.numpy() for value in mirrored["kernel"].values]
assert len(values) == 2 and all((value == kernel).all() for value in values), values
plain["kernel"].assign(kernel * 2)
with strategy.scope():
    checkpoint.restore(restored.path, plain)
assert checkpoint.state_sha256(plain) == checkpoint.state_sha256(mirrored)
try:
    checkpoint.save(sys.argv[1], 8, {"local": local}, {})
except TypeError as error:
    print(error)
"""


def test_mirrored_variables_are_saved_and_restored_on_every_replica(tmp_path: Path) -> None:
    """A mirrored state hashes, saves and restores as a plain one; per-replica ones are refused."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "'local' holds another value on each of 2 replicas" in done.stdout
