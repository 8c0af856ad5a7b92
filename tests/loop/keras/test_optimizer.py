"""Keras's optimizers inside the compiled loop: the numbers of Keras, the protocol of the loop."""

import json
import pathlib
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kernels import target
from loop import schedules
from loop.keras.adapter import KerasOptimizer

_STEPS = 20
_SHAPES = {"kernel": (4, 3), "bias": (3,), "table": (6, 2)}


def _variables():
    rng = np.random.default_rng(11)
    return [
        keras.Variable(rng.normal(0.4, 1, shape).astype(np.float32), name=name)
        for name, shape in _SHAPES.items()
    ]


def _gradients(step):
    """Random-looking gradients from the step, the last one sparse with a repeated row."""
    scale = tf.cast(step + 1, tf.float32)
    kernel = tf.reshape(tf.sin(tf.range(12.0) * scale) + 0.1, [4, 3])
    rows = tf.reshape(tf.cos(tf.range(6.0) * scale), [3, 2])
    slices = tf.IndexedSlices(rows, tf.constant([5, 1, 5]), tf.constant([6, 2]))
    return [kernel, tf.cos(tf.range(3.0) + scale), slices]


def _train(optimizer, steps, compiler):
    """All steps in one loop; every fourth is skipped."""
    with target.tracing_for(compiler):

        def body(step):
            optimizer.apply(
                _gradients(step),
                global_step=tf.cast(step, tf.int64),
                finite=tf.not_equal(step % 4, 3),
            )
            return step + 1

        tf.while_loop(lambda step: step < steps, body, [tf.constant(0)])


_MAKERS = {
    "SGD": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "AdamW, clipped": lambda: keras.optimizers.AdamW(0.05, global_clipnorm=1.0),
    "Nadam": lambda: keras.optimizers.Nadam(0.05),
    "Ftrl": lambda: keras.optimizers.Ftrl(0.05),
    "Muon": lambda: keras.optimizers.Muon(0.05, exclude_layers=["table"]),
    "Lamb, averaged": lambda: keras.optimizers.Lamb(0.05, use_ema=True),
    "Adam, scheduled": lambda: keras.optimizers.Adam(
        keras.optimizers.schedules.InverseTimeDecay(0.1, 1, 0.5)
    ),
}


@pytest.mark.parametrize("compiler", ["graph", "xla"])
@pytest.mark.parametrize("make", _MAKERS.values(), ids=_MAKERS)
def test_equal_to_keras_itself(make, compiler):
    """Weights and every variable of the optimizer are those of Keras's own apply."""
    variables, others = _variables(), _variables()
    optimizer, reference = KerasOptimizer(make()), make()
    optimizer.build(variables)
    tf.function(
        lambda steps: _train(optimizer, steps, compiler),
        jit_compile=compiler == "xla",
        autograph=False,
    )(tf.constant(_STEPS))
    reference.build(others)
    for variable in others:  # Keras 3.12's Muon looks for the path on the tf.Variable inside
        variable.value.path = variable.path
    scheduled = isinstance(
        reference._learning_rate, keras.optimizers.schedules.LearningRateSchedule
    )
    for step in range(_STEPS):
        if step % 4 == 3:
            continue
        if scheduled:  # ours reads it at the global step, Keras at the number of updates
            rate = float(optimizer.learning_rate_at(tf.constant(step, tf.int64)))
            reference._learning_rate = lambda rate=rate: rate
        reference.apply([tf.convert_to_tensor(gradient) for gradient in _gradients(step)])
    for mine, theirs in zip(variables, others, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=2e-4, atol=2e-5)
    assert len(optimizer.state) == len(reference.variables)
    for mine, theirs in zip(optimizer.state.values(), reference.variables, strict=True):
        np.testing.assert_allclose(
            mine.numpy(), theirs.numpy(), rtol=2e-4, atol=2e-5, err_msg=theirs.path
        )
    assert optimizer.optimizer.iterations.numpy() == _STEPS - _STEPS // 4


def test_a_loop_schedule_replaces_the_learning_rate():
    """The rate is the schedule's at the global step, and Keras's variable follows it."""
    variables = _variables()
    before = variables[1].numpy()
    optimizer = KerasOptimizer(
        keras.optimizers.SGD(9.0), learning_rate=schedules.exponential_decay(0.5, 10, 0.5)
    )
    optimizer.build(variables)
    step = tf.constant(20, tf.int64)
    optimizer.apply([None, tf.constant([1.0, 2.0, -4.0]), None], global_step=step)
    np.testing.assert_allclose(optimizer.learning_rate_at(step), 0.125)
    np.testing.assert_allclose(optimizer.optimizer.learning_rate.numpy(), 0.125)
    np.testing.assert_allclose(variables[1].numpy(), before - [0.125, 0.25, -0.5], rtol=1e-6)


def test_none_gradients_spare_their_variables_without_a_warning():
    """A variable without gradient keeps its value, and Keras has nothing to warn of."""
    variables = _variables()
    before = [variable.numpy() for variable in variables]
    optimizer = KerasOptimizer(keras.optimizers.Adam())
    optimizer.build(variables)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.apply([None, _gradients(0)[1], None], global_step=tf.constant(0, tf.int64))
    changed = [not np.array_equal(b, v.numpy()) for b, v in zip(before, variables, strict=True)]
    assert changed == [False, True, False]


def test_a_loaded_model_works():
    """A model that was compiled and built by Keras hands its optimizer over as it is."""
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.Adam(), "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    optimizer = KerasOptimizer(model.optimizer)
    optimizer.build(model.trainable_variables)
    optimizer.apply([tf.ones([3, 2]), tf.ones([2])], global_step=tf.constant(1, tf.int64))
    assert model.optimizer.iterations.numpy() == 2


def test_what_cannot_work_is_refused():
    """Options that break the order of an update, foreign objects and misuse raise a clear line."""
    with pytest.raises(TypeError, match="got str"):
        KerasOptimizer("adam")
    with pytest.raises(TypeError, match="LossScaleOptimizer"):
        KerasOptimizer(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()))
    with pytest.raises(ValueError, match="gradient_accumulation_steps=2"):
        KerasOptimizer(keras.optimizers.SGD(gradient_accumulation_steps=2))
    optimizer, variables = KerasOptimizer(keras.optimizers.SGD()), _variables()
    with pytest.raises(RuntimeError, match="call build"):
        optimizer.apply([], global_step=tf.constant(0, tf.int64))
    with pytest.raises(TypeError, match="take Keras variables"):
        optimizer.build([tf.Variable([1.0], name="w")])
    optimizer.build(variables)
    optimizer.build(variables)
    with pytest.raises(ValueError, match="now got 1 others"):
        optimizer.build(variables[:1])
    with pytest.raises(ValueError, match="expected 3 gradients that are not all None, got 3"):
        optimizer.apply([None] * 3, global_step=tf.constant(0, tf.int64))


def _replicas():
    cpus = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        variables = _variables()
        optimizer = KerasOptimizer(keras.optimizers.Nadam(0.05, weight_decay=0.01))
        optimizer.build(variables)
    train = tf.function(
        lambda steps: strategy.run(lambda: _train(optimizer, steps, "graph")), autograph=False
    )
    train(tf.constant(_STEPS))
    values = [variable.value for variable in variables] + list(optimizer.state.values())
    local = strategy.experimental_local_results
    print(json.dumps([[copy.numpy().tolist() for copy in local(value)] for value in values]))


def test_replicas_do_not_reduce_again():
    """On two virtual CPUs both replicas hold what one device computes from the same gradients."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.loop.keras.test_optimizer"],
        cwd=pathlib.Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    copies = json.loads(run.stdout.splitlines()[-1])
    variables = _variables()
    optimizer = KerasOptimizer(keras.optimizers.Nadam(0.05, weight_decay=0.01))
    optimizer.build(variables)
    tf.function(lambda steps: _train(optimizer, steps, "graph"), autograph=False)(
        tf.constant(_STEPS)
    )
    expected = variables + list(optimizer.state.values())
    assert len(copies) == len(expected)
    for pair, value in zip(copies, expected, strict=True):
        assert len(pair) == 2
        for copy in pair:
            np.testing.assert_allclose(copy, value.numpy(), rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    _replicas()
