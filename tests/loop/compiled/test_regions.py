"""Parts of a step that are compiled by themselves."""

import numpy as np
import pytest
import tensorflow as tf

import kernels
import loop
from kernels import target
from loop import distribute, layers, optimizers, step_context
from loop.compiled import compiled_loop
from loop.compiled.compiled_loop import CompiledLoop, graph_region
from tests.loop import steps


def _step(pool, units):
    """A small convolutional net's step, with dropout behind what may be a max pooling."""
    convolution = layers.Conv2D(1, 2, 3, name="convolution", seed=1)
    dropout = layers.Dropout(0.4, name="dropout")
    dense = layers.Dense(units, 1, name="dense", seed=2)

    def loss(batch):
        x = tf.nn.relu(convolution(tf.reshape(batch["x"], [-1, 6, 6, 1])))
        x = kernels.max_pool2d(x, 2) if pool else x
        x = dropout(tf.reshape(x, [x.shape[0], -1]), training=True)
        return (dense(x)[:, 0] - batch["y"]) ** 2

    variables = [*convolution.trainable_variables, *dense.trainable_variables]
    return loop.GradientStep(loss, variables, optimizers.Adam(0.01))


def _compiled(step, mode="graph"):
    x = np.random.default_rng(2).normal(0.3, 1.0, [20, 36]).astype(np.float32)
    return CompiledLoop(
        step,
        loop.feeds.Arrays({"x": x, "y": x[:, 0] * 2}, batch_size=4, seed=5),
        mode=mode,
        steps_per_call=6,
        global_step=loop.GlobalStep(),
        replicas=distribute.single(),
    )


def _apart(compiled):
    """The operations of the functions that are not put in line."""
    chunk = compiled.prepare(0, 6).chunk
    graph = compiled._call.get_concrete_function(*compiled._arguments(chunk, 0, 0, 0)).graph
    functions = {f.signature.name: f for f in graph.as_graph_def().library.function}
    waiting = [name for name, f in functions.items() if f.attr["_noinline"].b]
    found = []
    while waiting:
        for node in functions[waiting.pop()].node_def:
            found.append(node.op)
            waiting += [node.attr["f"].func.name] if node.op.endswith("PartitionedCall") else []
    return found


@pytest.mark.parametrize("pool", [True, False])
def test_pooling_is_differentiated_in_a_graph_without_a_loop(pool):
    """In graph mode MaxPoolGrad is in a function of its own; without one there is no such thing."""
    apart = _apart(_compiled(_step(pool, 18 if pool else 72)))
    assert ("MaxPoolGrad" in apart, "MaxPool" in apart) == (pool, pool)
    assert bool(apart) == pool


def test_a_gpu_pools_in_line():
    """OneDNN has no part in what is traced for a GPU, so nothing is kept apart there."""
    x = tf.constant(np.arange(32.0, dtype=np.float32).reshape(2, 4, 4, 1))

    def gradient(x):
        return tf.gradients(tf.nn.max_pool2d(x, 2, 2, "VALID"), x)[0]

    for device, apart in (("cpu", True), ("gpu", False)):

        def traced(x, device=device):
            with target.tracing_for("graph", device):
                return loop.compiled.regions.graph_region(gradient)(x)

        graph = tf.function(traced, autograph=False).get_concrete_function(x).graph
        functions = graph.as_graph_def().library.function
        assert any(function.attr["_noinline"].b for function in functions) == apart


def test_a_region_changes_no_bit(monkeypatch):
    """Rows and weights are the same with the pooled part in line."""
    results = []
    for region in (graph_region, lambda function: function):
        monkeypatch.setattr(compiled_loop, "graph_region", region)
        step = _step(True, 18)
        compiled = _compiled(step)
        table = compiled.run(compiled.prepare(0, 6), 6).rows.table
        results.append((table, *[variable.numpy() for variable in step.variables]))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_graph_region_keeps_context_and_slices():
    """What is computed apart knows the step's place, and IndexedSlices pass through."""

    def function(x, absent):
        assert absent is None
        place = step_context.current("test").positions
        table = tf.reshape(x, [-1, 2])
        with tf.GradientTape() as tape:
            tape.watch([x, table])
            rows = tf.reduce_sum(tf.gather(table, [1, 1, 3]) ** 2)
            total = tf.reduce_sum(kernels.max_pool2d(x, 2)) + rows
        return (*tape.gradient(total, [x, table]), place)

    x = tf.constant(np.random.default_rng(4).normal(size=[2, 4, 4, 1]), tf.float32)

    @tf.function(autograph=False)
    def traced(x):
        with steps.inside(3):
            return loop.compiled.regions.graph_region(function)(x, None), function(x, None)

    apart, plain = traced(x)
    assert isinstance(apart[1], tf.IndexedSlices)
    for one, other in zip(apart, plain, strict=True):
        np.testing.assert_array_equal(tf.convert_to_tensor(one), tf.convert_to_tensor(other))
