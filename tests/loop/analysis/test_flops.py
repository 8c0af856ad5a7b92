"""Counted operations against a formula and against TensorFlow's own profiler."""

import numpy as np
import pytest
import tensorflow as tf

import kernels
import loop
from loop import layers, optimizers
from loop.analysis import flops
from loop.feeds import Arrays


def _step(*, convolution, accumulate=1, batch=8, frozen=()):
    """A step of conv 3x3 (or none), dense, ReLU, dense; without norms, whose sums are products."""
    rng = np.random.default_rng(0)
    data = {
        "image": rng.normal(size=(16, 6, 4, 3)).astype(np.float32),
        "label": rng.integers(0, 7, 16).astype(np.int32),
    }
    first = layers.Conv2D(3, 5, 3, name="first", seed=0) if convolution else None
    size = 6 * 4 * (5 if convolution else 3)
    hidden = layers.Dense(size, 32, name="hidden", seed=0)
    logits = layers.Dense(32, 7, name="logits", seed=0)

    def loss(batch):
        x = batch["image"] if first is None else tf.nn.relu(first(batch["image"]))
        x = tf.nn.relu(hidden(tf.reshape(x, [-1, size])))
        return kernels.softmax_cross_entropy(batch["label"], logits(x))

    model = [layer for layer in (first, hidden, logits) if layer is not None]
    variables = [v for layer in model for v in layer.trainable_variables]
    optimizer = optimizers.Adam(0.01, frozen=frozen)
    step = loop.GradientStep(loss, variables, optimizer, accumulate=accumulate)
    return step, Arrays(data, batch_size=batch), variables


def test_a_networks_operations_are_the_formulas():
    """Each product thrice (forward, kernel, input) but the first layer's input; state untouched."""
    dense = [2 * 8 * inputs * units for inputs, units in ((6 * 4 * 3, 32), (32, 7))]
    step, feed, variables = _step(convolution=False)
    before = [variable.numpy() for variable in variables]
    assert flops.of_step(step, feed) == 3 * sum(dense) - dense[0]
    for old, variable in zip(before, variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())
    step, feed, _ = _step(convolution=False, accumulate=4)
    assert flops.of_step(step, feed) == 3 * sum(dense) - dense[0]
    assert step.accumulate == 4
    taps = 2 * 8 * 6 * 4 * 5 * 9 * 3
    dense = [2 * 8 * inputs * units for inputs, units in ((6 * 4 * 5, 32), (32, 7))]
    assert flops.of_step(*_step(convolution=True)[:2]) == 3 * (taps + sum(dense)) - taps


def test_gradients_of_frozen_variables_are_not_computed():
    """Behind a frozen first layer, the product for its kernel is gone, and that for its output."""
    first, second = (2 * 8 * inputs * units for inputs, units in ((6 * 4 * 3, 32), (32, 7)))
    step, feed, _ = _step(convolution=False, frozen=["hidden/"])
    assert flops.of_step(step, feed) == first + 2 * second
    step, feed, _ = _step(convolution=False, frozen=["hidden/kernel"])
    assert flops.of_step(step, feed) == first + 3 * second


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_single_operations_are_what_the_profiler_counts(strides, padding):
    """Convolution, its gradients and products with either side transposed: profiler's numbers."""

    def traced(x, kernel, a, b):
        with tf.GradientTape() as tape:
            tape.watch([kernel, a, b])
            y = tf.nn.conv2d(x, kernel, strides, padding)
            z = tf.matmul(a, b, transpose_b=True)
        gradients = tape.gradient([y, z], [kernel, a, b], [tf.sin(y), tf.sin(z)])
        return [*gradients, y, z]

    specs = [tf.TensorSpec(s) for s in ([2, 9, 7, 3], [3, 2, 3, 5], [4, 6], [8, 6])]
    graph = tf.function(traced, autograph=False).get_concrete_function(*specs).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    counted = {}
    for kind in ("MatMul", "Conv2D", "Conv2DBackpropFilter"):
        options["start_name_regexes"] = [".*"]
        options["account_type_regexes"] = [kind]
        found = tf.compat.v1.profiler.profile(graph, cmd="op", options=options)
        counted[kind] = sum(c.total_float_ops for c in found.children if c.name == kind)
    ours = dict.fromkeys(counted, 0)
    for operation in graph.get_operations():
        if operation.type in ours:
            ours[operation.type] += flops._operations(operation)
    assert ours["MatMul"] == 2 * 3 * 4 * 6 * 8
    assert ours["Conv2D"] == counted["Conv2D"] > 0
    assert ours["Conv2DBackpropFilter"] == ours["Conv2D"]


def test_a_function_that_the_graph_calls_counts():
    """A nested function and a branch are looked into, and an unknown size is an error."""
    inner = tf.function(lambda a: tf.matmul(a, a), autograph=False)

    def traced(a):
        return tf.cond(a[0, 0] > 0, lambda: inner(a) + inner(a), lambda: a)

    outer = tf.function(traced, autograph=False)
    graph = outer.get_concrete_function(tf.TensorSpec([5, 5])).graph
    assert flops.of_graph(graph) == 2 * 2 * 5**3
    unknown = inner.get_concrete_function(tf.TensorSpec([None, 5])).graph
    with pytest.raises(ValueError, match=r"has shape \(None, 5\); expected a static one"):
        flops.of_graph(unknown)
