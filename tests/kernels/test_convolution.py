"""Convolutions against NumPy's direct sums, TensorFlow's operations and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from kernels import target
from kernels.convolution import conv2d, depthwise_conv2d

Array = npt.NDArray[Any]
Conv = Callable[..., tf.Tensor]

CASES = [
    # (height, width), (h, w), strides, padding, dilations
    ((7, 6), (3, 3), 1, "SAME", 1),
    ((7, 6), (3, 2), 2, "SAME", 1),
    ((8, 9), (2, 3), (2, 3), "VALID", 1),
    ((9, 8), (3, 2), 1, "SAME", (2, 1)),
    ((6, 7), (1, 1), 1, "VALID", 1),
    ((6, 7), (1, 1), 2, "SAME", 1),
    ((9, 9), (3, 3), 2, "VALID", 2),
    ((1, 5), (3, 3), 1, "SAME", 1),
]


def direct(
    x: Array,
    kernel: Array,
    strides: Any,
    padding: str,
    dilations: Any,
    *,
    depthwise: bool,
) -> Array:
    """The defining sum, one output pixel at a time, in float64."""
    steps, gaps = np.broadcast_to(strides, 2), np.broadcast_to(dilations, 2)
    image, taps = np.array(x.shape[1:3]), np.array(kernel.shape[:2])
    reach = (taps - 1) * gaps + 1
    if padding == "SAME":
        places = -(-image // steps)
        total = np.maximum((places - 1) * steps + reach - image, 0)
        margins = [(t // 2, t - t // 2) for t in total]
        x = np.pad(x, [(0, 0), *margins, (0, 0)])
    else:
        places = (image - reach) // steps + 1
    outputs = kernel.shape[2] * kernel.shape[3] if depthwise else kernel.shape[3]
    y = np.zeros((len(x), *places, outputs))
    for i in range(places[0]):
        for j in range(places[1]):
            top, left = np.array([i, j]) * steps
            seen = x[:, top : top + reach[0] : gaps[0], left : left + reach[1] : gaps[1]]
            rule = "bhwc,hwcm->bcm" if depthwise else "bhwc,hwcf->bf"
            y[:, i, j] = np.einsum(rule, seen, kernel).reshape(len(x), -1)
    return y


def evaluate(
    conv: Conv, mode: str, x: Array, kernel: Array, dy: Array, dtype: str, **options: Any
) -> list[Array]:
    """y, dx and the kernel's gradient on a target, channels last, in float64."""
    swap = options.get("data_format") == "NCHW"
    images = [np.moveaxis(v, -1, 1) if swap else v for v in (x, dy)]

    def run(x: tf.Tensor, kernel: tf.Tensor, dy: tf.Tensor) -> Any:
        with target.tracing_for(mode), tf.GradientTape() as tape:  # type: ignore[arg-type]
            tape.watch([x, kernel])
            y = conv(x, kernel, **options)
            return (y, *tape.gradient(y, [x, kernel], dy))

    compiled: Callable[..., Any] = run
    if mode != "eager":
        compiled = tf.function(run, jit_compile=mode == "xla", autograph=False)
    results = compiled(*(tf.cast(v, dtype) for v in (images[0], kernel, images[1])))
    assert {r.dtype.name for r in results} == {dtype}
    found = [np.asarray(tf.cast(r, tf.float64)) for r in results]
    return [np.moveaxis(f, 1, -1) for f in found[:2]] + found[2:] if swap else found


def arguments(case: Any, *, depthwise: bool, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """x, kernel, the direct sum and a gradient for it; random, mean-shifted, asymmetric."""
    (height, width), taps, strides, padding, dilations = case
    rng = np.random.default_rng(seed)
    x = rng.gamma(2.0, 1.0, (2, height, width, 3)) - 1.2
    kernel = rng.normal(0.2, 1, (*taps, 3, 2 if depthwise else 4))
    y = direct(x, kernel, strides, padding, dilations, depthwise=depthwise)
    return x, kernel, y, rng.normal(0.3, 1, y.shape)


def linear_gradients(case: Any, x: Array, kernel: Array, dy: Array, depthwise: bool) -> list[Array]:
    """The gradients from the direct sum alone: it is linear in both, so basis vectors give them."""
    _, _, *rest = case

    def each(value: Array, y_of: Callable[[Array], Array]) -> Array:
        gradient = np.zeros_like(value)
        for place in np.ndindex(value.shape):
            basis = np.zeros_like(value)
            basis[place] = 1
            gradient[place] = np.sum(y_of(basis) * dy)
        return gradient

    return [
        each(x, lambda v: direct(v, kernel, *rest, depthwise=depthwise)),
        each(kernel, lambda v: direct(x, v, *rest, depthwise=depthwise)),
    ]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("depthwise", [False, True])
def test_equals_the_direct_sum(case: Any, depthwise: bool) -> None:
    """Output and both gradients equal the defining sum's on every target, in float64."""
    x, kernel, y, dy = arguments(case, depthwise=depthwise)
    _, _, strides, padding, dilations = case
    expected = [y, *linear_gradients(case, x, kernel, dy, depthwise)]
    conv: Conv = depthwise_conv2d if depthwise else conv2d
    for mode in ("eager", "xla"):
        found = evaluate(
            conv,
            mode,
            x,
            kernel,
            dy,
            "float64",
            strides=strides,
            padding=padding,
            dilations=dilations,
        )
        for name, one, other in zip(("y", "dx", "dkernel"), found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-11, err_msg=f"{mode} {name}")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("depthwise", [False, True])
def test_dtypes_and_layouts(depthwise: bool, data_format: str, dtype: str) -> None:
    """Every dtype in both layouts stays within its rounding of TensorFlow's float64 result."""
    x, kernel, y, dy = arguments(CASES[0], depthwise=depthwise)
    with tf.GradientTape() as tape:
        parts = [tf.constant(x), tf.constant(kernel)]
        tape.watch(parts)
        if depthwise:
            output = tf.nn.depthwise_conv2d(*parts, [1, 1, 1, 1], "SAME")
        else:
            output = tf.nn.conv2d(*parts, 1, "SAME")
    np.testing.assert_allclose(output, y, atol=1e-12)
    expected = [output, *tape.gradient(output, parts, tf.constant(dy))]
    tolerance = {"float32": 3e-6, "bfloat16": 3e-2, "float16": 5e-3}[dtype]
    conv: Conv = depthwise_conv2d if depthwise else conv2d
    for mode in ("eager", "graph", "xla"):
        found = evaluate(conv, mode, x, kernel, dy, dtype, data_format=data_format)
        for one, other in zip(found, expected, strict=True):
            size = float(np.abs(other).max())
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * size, err_msg=mode)


@pytest.mark.parametrize("depthwise", [False, True])
def test_second_derivative_equals_finite_differences(depthwise: bool) -> None:
    """A function of the gradients has the gradient that central differences give, under XLA too."""
    x, kernel, _, dy = arguments(CASES[1], depthwise=depthwise)
    conv: Conv = depthwise_conv2d if depthwise else conv2d

    def penalty(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            loss = tf.reduce_sum(tf.tanh(conv(x, kernel, strides=2)) * dy)
        return tf.add_n([tf.reduce_sum(tf.square(g)) for g in tape.gradient(loss, [x, kernel])])

    @tf.function(jit_compile=True, autograph=False)
    def both(x: tf.Tensor, kernel: tf.Tensor) -> Any:
        with target.tracing_for("xla"), tf.GradientTape() as tape:
            tape.watch([x, kernel])
            value = penalty(x, kernel)
        return value, tape.gradient(value, [x, kernel])

    parts = [tf.constant(x), tf.constant(kernel)]
    _, gradients = both(*parts)
    for place, gradient in enumerate(gradients):
        direction = np.random.default_rng(place).normal(size=gradient.shape)
        moved = [
            both(*(p + h * direction if i == place else p for i, p in enumerate(parts)))[0]
            for h in (1e-5, -1e-5)
        ]
        numeric = (moved[0] - moved[1]) / 2e-5
        np.testing.assert_allclose(np.sum(gradient * direction), numeric, rtol=1e-6)


@pytest.mark.parametrize("mode", ["eager", "xla"])
def test_empty_batch(mode: str) -> None:
    """An empty batch gives an empty output and a zero kernel gradient."""
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4))
    for conv, outputs in ((conv2d, 4), (depthwise_conv2d, 12)):
        x, dy = np.zeros((0, 6, 5, 3)), np.zeros((0, 3, 3, outputs))
        y, dx, dkernel = evaluate(conv, mode, x, kernel, dy, "float32", strides=2)
        assert y.shape == dy.shape
        assert dx.shape == x.shape
        np.testing.assert_array_equal(dkernel, 0)


def test_xla_on_cpus_has_no_convolution_left() -> None:
    """Traced for XLA:CPU, forward and backward are products of matrices, with no Conv2D."""

    @tf.function(autograph=False)
    def run(x: tf.Tensor, kernel: tf.Tensor) -> Any:
        with target.tracing_for("xla", "cpu"), tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = conv2d(x, kernel, strides=2)
            return tape.gradient(y, [x, kernel])

    graph = run.get_concrete_function(
        tf.TensorSpec([2, 6, 6, 3]), tf.TensorSpec([3, 3, 3, 4])
    ).graph
    kinds = {op.type for op in graph.get_operations()}
    assert "MatMul" in kinds
    assert not any("Conv2D" in kind for kind in kinds)


def test_bad_arguments_are_named() -> None:
    """Each bad argument raises at the call and is named in the message."""
    x, kernel = tf.ones([2, 6, 6, 3]), tf.ones([3, 3, 3, 4])
    with pytest.raises(ValueError, match="padding"):
        conv2d(x, kernel, padding="same")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="strides"):
        conv2d(x, kernel, strides=0)
    with pytest.raises(ValueError, match="3 channels"):
        conv2d(x, tf.ones([3, 3, 2, 4]))
    with pytest.raises(ValueError, match="dtype"):
        depthwise_conv2d(x, tf.cast(kernel, tf.float64))
    with pytest.raises(ValueError, match="4 axes"):
        conv2d(tf.ones([2, 6, 3]), kernel)
