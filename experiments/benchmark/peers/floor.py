"""Contender floor: the step's matrix products and convolutions alone, each in its fastest form.

Forward, and backward for both operands. Every product is timed by itself, several in one call on
operands of their own, in TensorFlow's graph mode (Eigen, oneDNN) and in XLA; the faster counts. The
sum is what a step of this maths could reach on this machine if all the rest of it were free.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import kernels
from experiments.benchmark import workloads
from experiments.benchmark.peers import worker
from kernels import target


@dataclasses.dataclass(frozen=True)
class Product:
    """A matrix product, or one of a convolution's three.

    Attributes:
      kind: "matmul", or of a convolution "forward", "input" or "filter".
      left: shape of the first operand: a matrix, or the images [B, H, W, C].
      right: shape of the second: a matrix, the kernel [h, w, C, F], or for "filter" the kernel too.
      transpose_left: of a matmul.
      transpose_right: of a matmul.
      stride: of a convolution.
    """

    kind: str
    left: tuple[int, ...]
    right: tuple[int, ...]
    transpose_left: bool = False
    transpose_right: bool = False
    stride: int = 1

    @property
    def operations(self) -> int:
        """Multiply-adds."""
        if self.kind == "matmul":
            contracted = self.left[-2 if self.transpose_left else -1]
            free = int(np.prod(self.left)) // contracted
            return free * contracted * self.right[-2 if self.transpose_right else -1]
        places = self.left[0] * self.left[1] * self.left[2] // self.stride**2
        return places * int(np.prod(self.right))


def _dense(rows: int, inputs: int, outputs: int, *, first: bool = False) -> list[Product]:
    products = [
        Product("matmul", (rows, inputs), (inputs, outputs)),
        Product("matmul", (rows, inputs), (rows, outputs), transpose_left=True),
    ]
    if not first:  # nothing needs the gradient of the data
        right = (inputs, outputs)
        products.append(Product("matmul", (rows, outputs), right, transpose_right=True))
    return products


def _convolution(
    images: tuple[int, ...], filters: int, *, stride: int = 1, first: bool = False
) -> list[Product]:
    kernel = (3, 3, images[-1], filters)
    kinds = ("forward", "filter") if first else ("forward", "filter", "input")
    return [Product(kind, images, kernel, stride=stride) for kind in kinds]


def _attention() -> list[Product]:
    t = workloads.TRANSFORMER
    batch = workloads.WORKLOADS["transformer"].batch * t.heads
    heads, scores = (batch, t.tokens, t.width // t.heads), (batch, t.tokens, t.tokens)
    by_transpose = Product("matmul", heads, heads, transpose_right=True)
    plain = Product("matmul", scores, heads)
    transposed = Product("matmul", scores, heads, transpose_left=True)
    # Scores and output; then of the output both gradients, and of the scores both.
    return [by_transpose, plain, by_transpose, transposed, plain, transposed]


def products_of(workload: workloads.Workload) -> list[Product]:
    """All the products of one step, in no order."""
    batch, products = workload.batch, []
    if workload.family == "mlp":
        for i, (inputs, outputs) in enumerate(
            zip(workload.widths[:-1], workload.widths[1:], strict=True)
        ):
            products += _dense(batch, inputs, outputs, first=i == 0)
    elif workload.family == "cnn":
        products += _convolution((batch, 28, 28, 1), 32, first=True)
        products += _convolution((batch, 14, 14, 32), 64)
        products += _dense(batch, 7 * 7 * 64, workloads.CLASSES)
    elif workload.family == "resnet20":
        size = workload.example_shape[0]
        for i, (inputs, width, stride) in enumerate(workloads.resnet_convolutions()):
            images = (batch, size, size, inputs)
            products += _convolution(images, width, stride=stride, first=i == 0)
            size //= stride
        products += _dense(batch, workloads.RESNET_WIDTHS[-1], workloads.CLASSES)
    elif workload.family == "transformer":
        t, rows = workloads.TRANSFORMER, batch * workloads.TRANSFORMER.tokens
        for _ in range(t.layers):
            products += _dense(rows, t.width, 3 * t.width) + _attention()
            products += _dense(rows, t.width, t.width)
            products += _dense(rows, t.width, t.hidden) + _dense(rows, t.hidden, t.width)
        products += _dense(rows, t.width, t.vocabulary)
    else:
        e = workloads.EMBEDDING
        products += _dense(batch, e.width, e.hidden) + _dense(batch, e.hidden, workloads.CLASSES)
    return products


def _strided(product: Product) -> tuple[int, ...]:
    """The shape of the convolution's output."""
    batch, height, width, _ = product.left
    return (batch, height // product.stride, width // product.stride, product.right[-1])


def _operands(product: Product) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if product.kind == "input":
        return _strided(product), product.right
    if product.kind == "filter":
        return product.left, _strided(product)
    return product.left, product.right


def _compute(product: Product, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """One product, in the form of the target being traced for."""
    if product.kind == "matmul":
        return tf.matmul(
            left, right, transpose_a=product.transpose_left, transpose_b=product.transpose_right
        )
    if target.current().compiler == "xla":
        return _compute_by_kernel(product, left, right)
    options: dict[str, Any] = {"strides": [1, product.stride, product.stride, 1], "padding": "SAME"}
    if product.kind == "forward":
        return tf.raw_ops.Conv2D(input=left, filter=right, **options)
    if product.kind == "input":
        return tf.raw_ops.Conv2DBackpropInput(
            input_sizes=product.left, filter=right, out_backprop=left, **options
        )
    return tf.raw_ops.Conv2DBackpropFilter(
        input=left, filter_sizes=product.right, out_backprop=right, **options
    )


def _compute_by_kernel(product: Product, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """A convolution's product by our kernel's form for XLA and its gradient."""
    if product.kind == "forward":
        return kernels.conv2d(left, right, strides=product.stride)
    if product.kind == "filter":
        images, dy, sought = left, right, tf.zeros(product.right)
        with tf.GradientTape() as tape:
            tape.watch(sought)
            y = kernels.conv2d(images, sought, strides=product.stride)
    else:
        dy, kernel, sought = left, right, tf.zeros(product.left)
        with tf.GradientTape() as tape:
            tape.watch(sought)
            y = kernels.conv2d(sought, kernel, strides=product.stride)
    return tape.gradient(y, sought, output_gradients=dy)


class _Timed:
    """A product in one form, several times in one call, on operands of their own."""

    def __init__(self, product: Product, compiler: Any) -> None:
        # Enough work that the call's own cost does not count.
        self.repeats = int(np.clip(2e8 // product.operations, 4, 64))
        generator = np.random.default_rng(0)
        left, right = _operands(product)

        def values(shape: tuple[int, ...]) -> tf.Tensor:
            return tf.constant(generator.standard_normal(shape, np.float32))

        self._arguments = [(values(left), values(right)) for _ in range(self.repeats)]

        def call(arguments: list[Any]) -> list[tf.Tensor]:
            results: list[tf.Tensor] = []
            with target.tracing_for(compiler):
                for pair in arguments:
                    with tf.control_dependencies(results[-1:]):  # one after another, as in a step
                        results.append(_compute(product, *pair))
            return results

        self._call: Callable[..., Any] = tf.function(call, jit_compile=compiler == "xla" or None)

    def seconds(self, products: int) -> float:
        """Seconds a product, over at least `products` of them."""
        calls = max(1, -(-products // self.repeats))
        started = time.perf_counter()
        for _ in range(calls):
            self._call(self._arguments)[-1].numpy()
        return (time.perf_counter() - started) / (calls * self.repeats)


def _fastest(product: Product) -> _Timed:
    forms = [_Timed(product, "graph"), _Timed(product, "xla")]
    measured = []
    for form in forms:
        form.seconds(1)
        measured.append(min(form.seconds(form.repeats) for _ in range(3)))
    return forms[int(np.argmin(measured))]


class Floor:
    """The fastest form of each distinct product, and how often a step has it."""

    def __init__(self, workload: workloads.Workload, _: int) -> None:
        counts = Counter(products_of(workload))
        self._timed = [(_fastest(product), count) for product, count in counts.items()]
        operations = sum(product.operations * count for product, count in counts.items())
        self.note = f"{2 * operations / 1e9:.3g} GFLOP a step"

    def first_losses(self, count: int) -> list[float]:
        """It trains nothing."""
        del count
        return []

    def run(self, steps: int) -> float:
        """The products of `steps` steps."""
        return steps * sum(timed.seconds(steps * count) * count for timed, count in self._timed)


if __name__ == "__main__":
    worker.serve(Floor)
