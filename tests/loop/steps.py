"""What tests of single steps share: a place in the run, and a small model."""

import contextlib

import numpy as np
import tensorflow as tf

import loop
from loop import layers, step_context
from loop.step_context import StepContext


def context(batch_size, *, seed=3, global_step=0, positions=None, mask=None, reduce=None):
    """A step's context of one replica, or of the replica that computes `positions`."""
    if positions is None:
        positions = np.arange(batch_size)
    return StepContext(
        seed=tf.constant(seed, tf.int64),
        global_step=tf.constant(global_step, tf.int64),
        positions=tf.constant(positions, tf.int32),
        mask=None if mask is None else tf.constant(mask),
        batch_size=batch_size,
        all_reduce_sum=reduce,
    )


@contextlib.contextmanager
def inside(batch_size, **options):
    """Runs the block as a step would be run."""
    with step_context.within(context(batch_size, **options)) as found:
        yield found


class Net(loop.Module):
    """Dense, BatchNorm with ReLU, dropout, Dense: one output an example."""

    def __init__(self, inputs=5, units=4, *, dropout=0.0, dtype=tf.float64, seed=1):
        self.dense = layers.Dense(inputs, units, name="dense", seed=seed, bias=False, dtype=dtype)
        self.norm = layers.BatchNorm(units, name="norm", momentum=0.8, relu=True, dtype=dtype)
        self.dropout = layers.Dropout(dropout, name="dropout")
        self.out = layers.Dense(units, 1, name="out", seed=seed, dtype=dtype)

    def __call__(self, x, *, training):
        """[B, inputs] -> [B]."""
        x = self.norm(self.dense(x), training=training)
        return self.out(self.dropout(x, training=training))[:, 0]


def squared_errors(net):
    """A loss function: per-example squared errors, and the absolute ones as a metric."""

    def loss(batch):
        error = net(batch["x"], training=True) - batch["y"]
        return error**2, {"absolute": tf.abs(error)}

    return loss


def arrays(size=37, inputs=5, dtype=np.float64, seed=0):
    """Inputs with a mean and targets that a model can learn."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.7, 1.3, [size, inputs])
    y = np.sin(x @ rng.normal(0, 1, inputs)) + 0.1 * rng.normal(0, 1, size)
    return {"x": x.astype(dtype), "y": y.astype(dtype)}


def values(state):
    """Copies of all variables, to compare or put back."""
    return {name: variable.numpy() for name, variable in state.items()}


def put_back(state, saved):
    """Sets variables to what `values` copied."""
    for name, variable in state.items():
        variable.assign(saved[name])


def same(left, right):
    """Whether two copies are equal bit for bit."""
    return left.keys() == right.keys() and all(
        left[name].tobytes() == right[name].tobytes() for name in left
    )
