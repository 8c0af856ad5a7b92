"""The step's matrix products and convolutions by themselves, each in its fastest form.

Forward, and backward for both operands. Every product is timed by itself, several in one call on
operands of their own, in TensorFlow's graph mode (Eigen, oneDNN) and in XLA; the faster counts. The
sum is what a step of this maths could reach on this machine if all the rest of it were free.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

import kernels
from experiments.benchmark import workloads
from experiments.benchmark.contenders import base, kernel_models, models
from kernels import target


class Product(NamedTuple):
    """A matrix product, or one of a convolution's three."""

    kind: str  # "matmul", or of a convolution "forward", "input" or "filter"
    left: tuple[int, ...]  # shape of the first operand: a matrix, or the images [B, H, W, C]
    # shape of the second: a matrix, the kernel [h, w, C, F], or for "filter" the kernel too
    right: tuple[int, ...]
    transpose_left: bool = False  # of a matmul
    transpose_right: bool = False  # of a matmul
    stride: int = 1  # of a convolution

    @property
    def operations(self) -> int:
        """Multiply-adds."""
        if self.kind == "matmul":
            contracted = self.left[-2 if self.transpose_left else -1]
            free = int(np.prod(self.left)) // contracted
            return free * contracted * self.right[-2 if self.transpose_right else -1]
        return int(np.prod(self.output[:3]) * np.prod(self.right))

    @property
    def output(self) -> tuple[int, ...]:
        """The shape of the convolution's output."""
        batch, height, width, _ = self.left
        return (batch, height // self.stride, width // self.stride, self.right[-1])

    @property
    def operands(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of what is multiplied."""
        left = self.output if self.kind == "input" else self.left
        return left, self.output if self.kind == "filter" else self.right


def _dense(rows: int, inputs: int, outputs: int) -> list[Product]:
    return [
        Product("matmul", (rows, inputs), (inputs, outputs)),
        Product("matmul", (rows, inputs), (rows, outputs), transpose_left=True),
        Product("matmul", (rows, outputs), (inputs, outputs), transpose_right=True),
    ]


def convolution(images: tuple[int, ...], filters: int, stride: int) -> list[Product]:
    """The three products of a convolution 3x3."""
    kernel = (3, 3, images[-1], filters)
    kinds = ("forward", "filter", "input")
    return [Product(kind, images, kernel, stride=stride) for kind in kinds]


def _attention(batch: int) -> list[Product]:
    t = workloads.TRANSFORMER
    heads, scores = (batch, t.tokens, t.width // t.heads), (batch, t.tokens, t.tokens)
    by_transpose = Product("matmul", heads, heads, transpose_right=True)
    plain = Product("matmul", scores, heads)
    transposed = Product("matmul", scores, heads, transpose_left=True)
    # Scores and output; then of the output both gradients, and of the scores both.
    return [by_transpose, plain, by_transpose, transposed, plain, transposed]


def products_of(workload: workloads.Workload) -> list[Product]:
    """All the products of one step, noted while the model runs on a batch."""
    weights = kernel_models.initial_weights(workload)
    on = kernel_models.operations(weights, lambda _, x, __: x)
    products: list[Product] = []

    def dense(layer: str, x: tf.Tensor) -> tf.Tensor:
        products.extend(_dense(x.shape[0], *weights[f"{layer}/kernel"].shape))
        return on.dense(layer, x)

    def convolve(i: int, x: tf.Tensor, stride: int) -> tf.Tensor:
        filters = weights[f"conv{i}/kernel"].shape[-1]
        products.extend(convolution(tuple(x.shape), filters, stride))
        return on.convolve(i, x, stride)

    def attend(layer: str, x: tf.Tensor) -> tf.Tensor:
        products.extend(_dense(x.shape[0], *weights[f"{layer}/inputs/kernel"].shape))
        products.extend(_attention(workload.batch * workloads.TRANSFORMER.heads))
        return on.attend(layer, x)

    batch = tf.constant(workloads.examples(workload)[0][: workload.batch])
    models.logits(workload, on._replace(dense=dense, convolve=convolve, attend=attend), batch)
    if batch.dtype.is_floating:
        del products[2]  # nothing needs the gradient of the data; ids have a table's before it
    return products


def compute(product: Product, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """One product, in the form of the target being traced for: plain, or for XLA our kernel's."""
    if product.kind == "matmul":
        transposes = {"transpose_a": product.transpose_left, "transpose_b": product.transpose_right}
        return tf.matmul(left, right, **transposes)

    def convolve(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        if target.current().compiler == "xla":
            return kernels.conv2d(images, kernel, strides=product.stride)
        return tf.nn.conv2d(images, kernel, product.stride, "SAME")

    if product.kind == "forward":
        return convolve(left, right)
    # The gradient's product; nothing needs the convolution itself, which is pruned.
    by_filter = product.kind == "filter"
    sought = tf.zeros(product.right if by_filter else product.left)
    with tf.GradientTape() as tape:
        tape.watch(sought)
        y = convolve(left, sought) if by_filter else convolve(sought, right)
    return tape.gradient(y, sought, output_gradients=right if by_filter else left)


class _Timed:
    """A product in one form, several times in one call, on operands of their own."""

    def __init__(self, product: Product, compiler: Any) -> None:
        # Enough work that the call's own cost does not count.
        self.repeats = int(np.clip(2e8 // product.operations, 4, 64))
        generator = np.random.default_rng(0)
        self._arguments = [
            [tf.constant(generator.standard_normal(s, np.float32)) for s in product.operands]
            for _ in range(self.repeats)
        ]

        def call(arguments: list[Any]) -> list[tf.Tensor]:
            results: list[tf.Tensor] = []
            with target.tracing_for(compiler):
                for pair in arguments:
                    with tf.control_dependencies(results[-1:]):  # one after another, as in a step
                        results.append(compute(product, *pair))
            return results

        self._call = tf.function(call, jit_compile=compiler == "xla" or None)

    def seconds(self, products: int) -> float:
        """Seconds a product, over at least `products` of them."""
        calls = max(1, -(-products // self.repeats))
        started = time.perf_counter()
        for _ in range(calls):
            self._call(self._arguments)[-1].numpy()
        return (time.perf_counter() - started) / (calls * self.repeats)


def _fastest(product: Product) -> _Timed:
    forms = [_Timed(product, "graph"), _Timed(product, "xla")]
    for form in forms:
        form.seconds(1)
    return min(forms, key=lambda form: min(form.seconds(form.repeats) for _ in range(3)))


class Contender(base.Base):
    """The fastest form of each distinct product, and how often a step has it."""

    def __init__(self, workload: workloads.Workload, _: int) -> None:
        counts = Counter(products_of(workload))
        self._timed = [(_fastest(product), count) for product, count in counts.items()]
        operations = sum(product.operations * count for product, count in counts.items())
        self.note = f"{2 * operations / 1e9:.3g} GFLOP a step"

    def first_losses(self, _: int) -> list[float]:
        """It trains nothing."""
        return []

    def run(self, steps: int) -> float:
        """The products of `steps` steps."""
        return steps * sum(timed.seconds(steps * count) * count for timed, count in self._timed)
