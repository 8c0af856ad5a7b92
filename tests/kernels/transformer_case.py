"""What the tests of the transformer's kernels share: running a kernel under each compiler."""

import numpy as np
import tensorflow as tf

from kernels import target

COMPILERS = ("eager", "graph", "xla")


def upstream(shape):
    """An uneven float64 gradient, so that a lost or misplaced one shows."""
    return np.random.default_rng(17).normal(0.4, 1.0, tuple(shape))


def value_and_gradients(kernel, inputs, compiler):
    """The kernel's value at `inputs` and its gradients in each, as the compiler runs it."""

    def call(*inputs):
        with target.tracing_for(compiler), tf.GradientTape() as tape:
            tape.watch(inputs)
            value = kernel(*inputs)
        return value, tape.gradient(value, inputs, tf.cast(upstream(value.shape), value.dtype))

    if compiler != "eager":
        call = tf.function(call, jit_compile=compiler == "xla", autograph=False)
    return call(*inputs)


def check_derivatives(kernel, inputs, compiler="graph", samples=12):
    """First and second derivatives against central differences, in float64.

    At `samples` random elements of each input, of the value weighted by `upstream`, and of its
    gradient along a random direction.
    """
    rng = np.random.default_rng(23)
    directions = [rng.normal(0.2, 1.0, x.shape) for x in inputs]

    @tf.function(autograph=False)
    def derivatives(*inputs):
        with target.tracing_for(compiler), tf.GradientTape() as outer:
            outer.watch(inputs)
            with tf.GradientTape() as inner:
                inner.watch(inputs)
                result = kernel(*inputs)
                value = tf.reduce_sum(result * upstream(result.shape))
            first = inner.gradient(value, inputs)
            along = tf.add_n([tf.reduce_sum(g * d) for g, d in zip(first, directions, strict=True)])
        return value, along, first, outer.gradient(along, inputs, unconnected_gradients="zero")

    _, _, first, second = derivatives(*inputs)
    step = 1e-5
    for which, x in enumerate(inputs):
        for flat in rng.choice(x.size, min(samples, x.size), replace=False):
            index = np.unravel_index(flat, x.shape)
            nudge = np.zeros(x.shape)
            nudge[index] = step
            up = derivatives(*[a + nudge if i == which else a for i, a in enumerate(inputs)])
            down = derivatives(*[a - nudge if i == which else a for i, a in enumerate(inputs)])
            for got, order in ((first, 0), (second, 1)):
                slope = (up[order] - down[order]) / (2 * step)
                np.testing.assert_allclose(
                    got[which][index],
                    slope,
                    rtol=1e-6,
                    atol=1e-7,
                    err_msg=f"derivative {order + 1} of input {which} at {index}",
                )
