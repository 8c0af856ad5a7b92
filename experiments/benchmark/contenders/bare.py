"""The same maths by hand, many steps in one compiled function, no framework.

What the framework costs is the difference to this. It shares the models and kernels with ours;
loop, batches, gradients, clipping and Adam are written out here in the fastest form known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import tensorflow as tf

import kernels
from experiments.benchmark import workloads
from experiments.benchmark.contenders import base, kernel_models, models
from kernels import target

# oneDNN's convolutions and TensorFlow's fused Adam are in graph mode, fused loops in XLA.
_COMPILERS: dict[workloads.Family, Literal["graph", "xla"]] = {
    "mlp": "xla",
    "cnn": "graph",
    "resnet20": "graph",
    "transformer": "xla",
    "embedding": "graph",
}


def repeated(step: Callable[[], tf.Tensor], count: tf.Tensor, most: int) -> tf.Tensor:
    """`count` steps, at most `most`, in one loop; their losses [most]."""

    def body(i: tf.Tensor, losses: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        return i + 1, losses.write(i, step())

    turns = (tf.constant(0), tf.TensorArray(tf.float32, size=most, element_shape=[]))
    return tf.while_loop(lambda i, _: i < count, body, turns, parallel_iterations=1)[1].stack()


class Contender(base.Base):
    """Variables, and one function of (data, number of steps)."""

    def __init__(self, workload: workloads.Workload, steps_per_call: int) -> None:
        self._workload = workload
        self.call_steps = steps_per_call
        self._compiler = _COMPILERS[workload.family]
        self.note = f"compile={self._compiler}, steps_per_call={steps_per_call}"
        weights = kernel_models.initial_weights(workload)
        self._weights = {name: tf.Variable(value) for name, value in weights.items()}
        self._first = {name: tf.Variable(tf.zeros_like(v)) for name, v in self._weights.items()}
        self._second = {name: tf.Variable(tf.zeros_like(v)) for name, v in self._weights.items()}
        gammas = [value for name, value in weights.items() if name.endswith("/gamma")]
        self._means = [tf.Variable(tf.zeros_like(gamma)) for gamma in gammas]
        self._variances = [tf.Variable(tf.ones_like(gamma)) for gamma in gammas]
        self._step = tf.Variable(0, dtype=tf.int64)
        self._data = tuple(map(tf.constant, workloads.examples(workload)))
        jit = True if self._compiler == "xla" else None
        self._train = tf.function(self._steps, jit_compile=jit, autograph=False)

    def _batch_norm(self, i: int, x: tf.Tensor, relu: bool) -> tf.Tensor:
        scale, offset = self._weights[f"bn{i}/gamma"], self._weights[f"bn{i}/beta"]
        epsilon = workloads.BATCH_NORM_EPSILON
        y, moments = kernels.batch_norm_training(x, scale, offset, epsilon=epsilon, relu=relu)
        for moving, value in ((self._means, moments.mean), (self._variances, moments.variance)):
            moving[i].assign_add((value - moving[i]) * (1 - workloads.BATCH_NORM_MOMENTUM))
        return y

    def _adam(self, gradients: list[Any]) -> None:
        step = tf.cast(self._step, tf.float32)
        rate = workloads.LEARNING_RATE * workloads.DECAY_RATE ** (step / workloads.DECAY_STEPS)
        count = step + 1
        rate *= tf.sqrt(1 - workloads.BETA_2**count) / (1 - workloads.BETA_1**count)
        b1, b2, epsilon = workloads.BETA_1, workloads.BETA_2, workloads.EPSILON
        for name, gradient in zip(self._weights, gradients, strict=True):
            p, m, v = self._weights[name], self._first[name], self._second[name]
            if self._compiler == "graph":
                handles = {"var": p.handle, "m": m.handle, "v": v.handle, "grad": gradient}
                powers = {"beta1_power": 0.0, "beta2_power": 0.0}  # they are in the rate
                tf.raw_ops.ResourceApplyAdam(
                    **handles, **powers, lr=rate, beta1=b1, beta2=b2, epsilon=epsilon
                )
            else:
                m.assign(b1 * m + (1 - b1) * gradient)
                v.assign(b2 * v + (1 - b2) * tf.square(gradient))
                p.assign_sub(rate * m / (tf.sqrt(v) + epsilon))

    def _update(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        variables = list(self._weights.values())
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            on = kernel_models.operations(self._weights, self._batch_norm)
            logits = models.logits(self._workload, on, x)
            loss = tf.reduce_mean(kernel_models.losses(y, logits))
        gradients = [
            tf.math.unsorted_segment_sum(g.values, g.indices, variable.shape[0])
            if isinstance(g, tf.IndexedSlices)
            else g
            for g, variable in zip(tape.gradient(loss, variables), variables, strict=True)
        ]
        scale = tf.minimum(1.0, workloads.CLIP_NORM / kernels.global_norm(gradients))
        self._adam([g * scale for g in gradients])
        self._step.assign_add(1)
        return loss

    def _steps(self, x: tf.Tensor, y: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """`count` steps; their losses [call_steps]."""

        def step() -> tf.Tensor:
            # A gather: XLA:CPU fuses a slice into the matrix product, 60 times slower.
            start = tf.cast(self._step % workloads.DATA_BATCHES, tf.int32) * self._workload.batch
            rows = start + tf.range(self._workload.batch)
            return self._update(tf.gather(x, rows), tf.gather(y, rows))

        with target.tracing_for(self._compiler):
            return repeated(step, count, self.call_steps)

    def call(self, steps: int) -> Any:
        """The losses of a call on the host, as ours are."""
        return self._train(*self._data, tf.constant(steps)).numpy()[:steps]
