"""The core optimizers over 100 steps of random gradients, against compat.v1 and Keras."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from kernels import target
from loop import optimizers
from loop.optimizers import update

v1 = tf.compat.v1.train
STEPS = 100
_SHAPES = {"matrix": (5, 4), "vector": (6,), "table": (9, 3)}


def _draws():
    """Weights; then for each step the dense gradients, and rows of the table with duplicates."""
    rng = np.random.default_rng(7)
    draw = lambda *shape: rng.normal(0.2, 1, shape).astype(np.float32)  # noqa: E731
    weights = [draw(*shape) for shape in _SHAPES.values()]
    dense = [draw(STEPS, *shape) for shape in list(_SHAPES.values())[:2]]
    # A row looked up twice in one step, and rows that are not looked up for several steps.
    return weights, dense, draw(STEPS, 4, 3), rng.integers(0, 9, (STEPS, 4)).astype(np.int32)


_WEIGHTS, _DENSE, _ROWS, _INDICES = _draws()


def _learning_rate(step):
    return 0.05 / (1 + 0.02 * tf.cast(step, tf.float32))


def _gradients(step):
    """The gradients of one step, in eager mode or inside a loop."""
    rows = tf.gather(tf.constant(_ROWS), step)
    indices = tf.gather(tf.constant(_INDICES), step)
    slices = tf.IndexedSlices(rows, indices, tf.constant(_SHAPES["table"]))
    return [*(tf.gather(tf.constant(dense), step) for dense in _DENSE), slices]


def _ours(optimizer, compiler):
    """The weights after the 100 steps, in one compiled loop."""
    variables = [
        tf.Variable(weight, name=name) for name, weight in zip(_SHAPES, _WEIGHTS, strict=True)
    ]
    optimizer.build(variables)

    def train(steps):
        with target.tracing_for(compiler):

            def body(step):
                optimizer.apply(_gradients(step), global_step=tf.cast(step, tf.int64))
                return step + 1

            return tf.while_loop(lambda step: step < steps, body, [tf.constant(0)])

    tf.function(train, jit_compile=compiler == "xla", autograph=False)(tf.constant(STEPS))
    return [variable.numpy() for variable in variables]


def _v1(make):
    """compat.v1's weights after the 100 steps; its learning rate is read at each update."""
    variables = [tf.Variable(weight) for weight in _WEIGHTS]
    rate = tf.Variable(0.05)
    optimizer = make(lambda: rate)
    for step in range(STEPS):
        rate.assign(_learning_rate(step))
        optimizer.apply_gradients(zip(_gradients(step), variables, strict=True))
    return [variable.numpy() for variable in variables]


def _keras(optimizer):
    """The same by Keras; from dense gradients, since it squares repeated rows before summing."""
    variables = [
        keras.Variable(weight, name=name) for name, weight in zip(_SHAPES, _WEIGHTS, strict=True)
    ]
    optimizer.build(variables)
    for variable in variables:  # Keras 3.12's Muon looks for the path on the tf.Variable inside
        variable.value.path = variable.path

    @tf.function(autograph=False)
    def apply(step):
        optimizer.apply([tf.convert_to_tensor(gradient) for gradient in _gradients(step)])

    for step in range(STEPS):
        apply(tf.constant(step))
    return [variable.numpy() for variable in variables]


def _assert_close(ours, theirs, rtol=2e-5):
    for name, mine, other, start in zip(_SHAPES, ours, theirs, _WEIGHTS, strict=True):
        assert np.abs(mine - start).max() > 1e-2, name
        np.testing.assert_allclose(mine, other, rtol=rtol, atol=rtol, err_msg=name)


_V1 = {
    "SGD": (optimizers.SGD, v1.GradientDescentOptimizer),
    "Momentum": (
        lambda rate: optimizers.Momentum(rate, 0.8),
        lambda rate: v1.MomentumOptimizer(rate, 0.8),
    ),
    "Nesterov": (
        lambda rate: optimizers.Momentum(rate, 0.8, nesterov=True),
        lambda rate: v1.MomentumOptimizer(rate, 0.8, use_nesterov=True),
    ),
    "Adam": (
        lambda rate: optimizers.Adam(rate, beta1=0.8, beta2=0.95, epsilon=1e-3),
        lambda rate: v1.AdamOptimizer(rate, 0.8, 0.95, epsilon=1e-3),
    ),
    "Adagrad": (
        lambda rate: optimizers.Adagrad(rate, initial_accumulator=0.2),
        lambda rate: v1.AdagradOptimizer(rate, 0.2),
    ),
    "Adadelta": (
        lambda rate: optimizers.Adadelta(rate, rho=0.9, epsilon=1e-2),
        lambda rate: v1.AdadeltaOptimizer(rate, 0.9, 1e-2),
    ),
    "RMSProp": (
        lambda rate: optimizers.RMSProp(rate, rho=0.8, epsilon=1e-3, initial_mean_square=1.0),
        lambda rate: v1.RMSPropOptimizer(rate, 0.8, epsilon=1e-3),
    ),
    "RMSProp, momentum": (
        lambda rate: optimizers.RMSProp(
            rate, rho=0.8, momentum=0.6, epsilon=1e-3, initial_mean_square=1.0
        ),
        lambda rate: v1.RMSPropOptimizer(rate, 0.8, 0.6, epsilon=1e-3),
    ),
    "RMSProp, centered": (
        lambda rate: optimizers.RMSProp(
            rate, rho=0.8, momentum=0.6, epsilon=1e-2, centered=True, initial_mean_square=1.0
        ),
        lambda rate: v1.RMSPropOptimizer(rate, 0.8, 0.6, epsilon=1e-2, centered=True),
    ),
}


@pytest.mark.parametrize("compiler", ["graph", "xla"])
@pytest.mark.parametrize(("ours", "theirs"), _V1.values(), ids=_V1)
def test_equal_to_compat_v1(compiler, ours, theirs, monkeypatch):
    """Dense and sparse gradients under a moving learning rate end where compat.v1 ends."""
    # In graph mode by TensorFlow's fused operations, which are for large variables otherwise.
    monkeypatch.setattr(update, "FUSED_FROM", 1)
    _assert_close(_ours(ours(_learning_rate), compiler), _v1(theirs))


# Keras 3.12, the last for Python 3.10, has one weight decay for both rules, and the scale
# sqrt(rows / columns), which for the matrix here, 5x4, is that of rms=0.5.
_HAS_RMS = "rms_rate" in inspect.signature(keras.optimizers.Muon).parameters
_KERAS = {
    "SGD": (optimizers.SGD(0.05), keras.optimizers.SGD(0.05)),
    "SGD, decay": (
        optimizers.SGD(0.05, weight_decay=0.1, sparse="exact"),
        keras.optimizers.SGD(0.05, weight_decay=0.1),
    ),
    "Nesterov": (
        optimizers.Momentum(0.05, 0.8, nesterov=True, sparse="exact"),
        keras.optimizers.SGD(0.05, momentum=0.8, nesterov=True),
    ),
    "Adam": (
        optimizers.Adam(0.05, beta1=0.8, beta2=0.95, epsilon=1e-3),
        keras.optimizers.Adam(0.05, 0.8, 0.95, epsilon=1e-3),
    ),
    "AdamW": (
        optimizers.AdamW(0.05, weight_decay=0.1, epsilon=1e-7),
        keras.optimizers.AdamW(0.05, weight_decay=0.1),
    ),
    "AMSGrad": (
        optimizers.AMSGrad(0.05, beta2=0.9, epsilon=1e-3),
        keras.optimizers.Adam(0.05, 0.9, 0.9, epsilon=1e-3, amsgrad=True),
    ),
    "Nadam": (
        optimizers.Nadam(0.05, beta2=0.95, epsilon=1e-3),
        keras.optimizers.Nadam(0.05, 0.9, 0.95, epsilon=1e-3),
    ),
    "Adagrad": (
        optimizers.Adagrad(0.05, epsilon=1e-2),
        keras.optimizers.Adagrad(0.05, epsilon=1e-2),
    ),
    "Adadelta": (
        optimizers.Adadelta(0.5, epsilon=1e-2, sparse="exact"),
        keras.optimizers.Adadelta(0.5, epsilon=1e-2),
    ),
    "RMSProp": (
        optimizers.RMSProp(0.05, momentum=0.5, epsilon=1e-2, centered=True, sparse="exact"),
        keras.optimizers.RMSprop(0.05, momentum=0.5, epsilon=1e-2, centered=True),
    ),
    "Lion": (
        optimizers.Lion(0.01, beta2=0.95, weight_decay=0.1, sparse="exact"),
        keras.optimizers.Lion(0.01, 0.9, 0.95, weight_decay=0.1),
    ),
    "LAMB": (optimizers.LAMB(0.05, epsilon=1e-3), keras.optimizers.Lamb(0.05, epsilon=1e-3)),
    "Muon": (
        optimizers.Muon(
            0.05,
            exclude=["table"],
            iterations=4,
            rms=0.2 if _HAS_RMS else 0.5,
            adam_ratio=0.3,
            weight_decay=0.1,
            sparse="exact",
        ),
        keras.optimizers.Muon(
            0.05,
            exclude_layers=["table"],
            ns_steps=4,
            adam_lr_ratio=0.3,
            weight_decay=0.1,
            **({"rms_rate": 0.2, "adam_weight_decay": 0.1} if _HAS_RMS else {}),
        ),
    ),
}


@pytest.mark.parametrize(("ours", "theirs"), _KERAS.values(), ids=_KERAS)
def test_equal_to_keras(ours, theirs):
    """With sparse="exact" the same 100 steps end where Keras ends, weight decay included."""
    # Keras raises the betas to the step's power in float32, which costs it digits.
    _assert_close(_ours(ours, "xla"), _keras(theirs), rtol=1e-4)
