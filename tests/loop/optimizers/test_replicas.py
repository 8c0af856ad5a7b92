"""Optimizers inside `strategy.run` on two virtual CPUs: one update each, no second reduce.

Virtual devices must be configured before TensorFlow starts, so the replicas live in a process of
their own, which prints what it found as JSON.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
import tensorflow as tf

from loop import optimizers

_STEPS = 7


def _make():
    """What is trained, by whom: the same in both processes."""
    rng = np.random.default_rng(2)
    variables = {
        name: tf.Variable(rng.normal(0.5, 1, shape).astype(np.float32), name=name)
        for name, shape in {"kernel": (4, 3), "table": (6, 2)}.items()
    }
    optimizer = optimizers.AdamW(
        lambda step: 0.1 / (1 + tf.cast(step, tf.float32)), sparse="lazy", multipliers={"table": 2}
    )
    optimizer.build(list(variables.values()))
    return variables, optimizer


def _train(optimizer, steps):
    """`steps` updates in one loop; every third is skipped."""

    def body(step):
        scale = tf.cast(step + 1, tf.float32)
        kernel = tf.reshape(tf.sin(tf.range(12.0) * scale), [4, 3])
        rows = tf.reshape(tf.cos(tf.range(6.0) * scale), [3, 2])
        slices = tf.IndexedSlices(rows, tf.constant([5, 1, 5]), tf.constant([6, 2]))
        finite = tf.not_equal(step % 3, 2)
        optimizer.apply([kernel, slices], global_step=tf.cast(step, tf.int64), finite=finite)
        return step + 1

    tf.while_loop(lambda step: step < steps, body, [tf.constant(0)])


def _replicas():
    cpus = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        variables, optimizer = _make()
    train = tf.function(
        lambda steps: strategy.run(lambda: _train(optimizer, steps)), autograph=False
    )
    train(tf.constant(_STEPS))
    everything = variables | optimizer.state
    outside = tf.Variable([1.0], name="w")
    with strategy.scope():
        mirrored = tf.Variable([1.0], name="w")
    try:
        optimizers.Adam().build([mirrored])
        refused = ""
    except ValueError as error:
        refused = str(error)
    optimizers.Adam().build([outside])
    copies = {
        name: [copy.numpy().tolist() for copy in strategy.experimental_local_results(variable)]
        for name, variable in everything.items()
    }
    print(json.dumps({"copies": copies, "refused": refused}))


def test_every_replica_makes_the_update_of_one_device():
    """Weights, slots and count on both replicas are those of the same updates on one device."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.loop.optimizers.test_replicas"],
        cwd=pathlib.Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    variables, optimizer = _make()
    tf.function(lambda steps: _train(optimizer, steps), autograph=False)(tf.constant(_STEPS))
    expected = variables | optimizer.state
    assert set(found["copies"]) == set(expected)
    for name, copies in found["copies"].items():
        assert len(copies) == 2, name
        for copy in copies:
            np.testing.assert_allclose(copy, expected[name].numpy(), rtol=1e-6, err_msg=name)
    assert "call it inside `with strategy.scope():`" in found["refused"]


if __name__ == "__main__":
    _replicas()
