"""Contender bare: the same maths by hand, many steps in one compiled function, no framework.

What the framework costs is the difference to this. It shares the models and kernels with ours;
loop, batches, gradients, clipping and Adam are written out here in the fastest form known.
"""

from __future__ import annotations

from typing import Any, Literal

import tensorflow as tf

import kernels
from experiments.benchmark import workloads
from experiments.benchmark.peers import kernel_models, worker
from kernels import target

# oneDNN's convolutions and TensorFlow's fused Adam are in graph mode, fused loops in XLA.
_COMPILERS: dict[workloads.Family, Literal["graph", "xla"]] = {
    "mlp": "xla",
    "cnn": "graph",
    "resnet20": "graph",
    "transformer": "xla",
    "embedding": "graph",
}


class Bare:
    """Variables, and one function of (data, number of steps)."""

    def __init__(self, workload: workloads.Workload, steps_per_call: int) -> None:
        self._workload = workload
        self._steps_per_call = steps_per_call
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
        self._call = tf.function(self._steps, jit_compile=jit, autograph=False)

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
                tf.raw_ops.ResourceApplyAdam(
                    var=p.handle,
                    m=m.handle,
                    v=v.handle,
                    beta1_power=0.0,
                    beta2_power=0.0,
                    lr=rate,
                    beta1=b1,
                    beta2=b2,
                    epsilon=epsilon,
                    grad=gradient,
                )
                continue
            m.assign(b1 * m + (1 - b1) * gradient)
            v.assign(b2 * v + (1 - b2) * tf.square(gradient))
            p.assign_sub(rate * m / (tf.sqrt(v) + epsilon))

    def _update(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        weights = self._weights
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(weights.values()))
            logits = kernel_models.logits(self._workload, weights, x, self._batch_norm)
            loss = tf.reduce_mean(kernels.softmax_cross_entropy(y, logits))
        gradients = tape.gradient(loss, list(weights.values()))
        gradients = [
            tf.math.unsorted_segment_sum(g.values, g.indices, variable.shape[0])
            if isinstance(g, tf.IndexedSlices)
            else g
            for g, variable in zip(gradients, weights.values(), strict=True)
        ]
        norm = kernels.global_norm(gradients)
        scale = tf.minimum(1.0, workloads.CLIP_NORM / norm)
        self._adam([g * scale for g in gradients])
        self._step.assign_add(1)
        return loss

    def _steps(self, x: tf.Tensor, y: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """`count` steps; their losses [steps_per_call]."""

        def body(i: tf.Tensor, losses: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            # A gather: XLA:CPU fuses a slice into the matrix product, 60 times slower.
            start = tf.cast(self._step % workloads.DATA_BATCHES, tf.int32) * self._workload.batch
            rows = start + tf.range(self._workload.batch)
            return i + 1, losses.write(i, self._update(tf.gather(x, rows), tf.gather(y, rows)))

        losses = tf.TensorArray(tf.float32, size=self._steps_per_call, element_shape=[])
        with target.tracing_for(self._compiler):
            _, losses = tf.while_loop(
                lambda i, _: i < count, body, (tf.constant(0), losses), parallel_iterations=1
            )
        return losses.stack()

    def first_losses(self, count: int) -> list[float]:
        """The first call's losses."""
        losses = []
        for start in range(0, count, self._steps_per_call):
            steps = min(self._steps_per_call, count - start)
            losses += self._call(*self._data, tf.constant(steps)).numpy().tolist()[:steps]
        return losses

    def run(self, steps: int) -> None:
        """Whole calls, the losses of each on the host as ours are."""
        for start in range(0, steps, self._steps_per_call):
            count = min(self._steps_per_call, steps - start)
            self._call(*self._data, tf.constant(count)).numpy()


if __name__ == "__main__":
    worker.serve(Bare)
