"""Pooling against NumPy's direct form and TensorFlow's operations, ties included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from kernels import target
from kernels.pooling import avg_pool2d, max_pool2d

Array = npt.NDArray[Any]
Pool = Callable[..., tf.Tensor]

CASES = [
    # (height, width), size, strides, padding
    ((6, 8), 2, None, "VALID"),
    ((7, 9), 2, None, "SAME"),
    ((7, 9), 2, None, "VALID"),
    ((9, 8), 3, 2, "SAME"),
    ((9, 8), 3, 2, "VALID"),
    ((7, 6), (2, 3), 1, "SAME"),
    ((8, 7), (3, 2), (2, 1), "VALID"),
    ((9, 10), 2, 3, "SAME"),
    ((1, 5), 3, 2, "SAME"),
    ((5, 4), 1, None, "VALID"),
]


def direct(x: Array, dy: Array | None, case: Any, kind: str) -> tuple[Array, Array]:
    """Pools one window at a time; the maximum's gradient goes to the first of equal ones."""
    _, size, strides, padding = case
    taps = np.broadcast_to(size, 2)
    steps = taps if strides is None else np.broadcast_to(strides, 2)
    image = np.array(x.shape[1:3])
    if padding == "SAME":
        places = -(-image // steps)
        before = np.maximum((places - 1) * steps + taps - image, 0) // 2
    else:
        places, before = (image - taps) // steps + 1, np.zeros(2, int)
    y, dx = np.zeros((len(x), *places, x.shape[3])), np.zeros_like(x)
    for n, i, j, c in np.ndindex(y.shape):
        corner = np.array([i, j]) * steps - before
        first, last = np.maximum(corner, 0), np.minimum(corner + taps, image)
        here = (n, slice(first[0], last[0]), slice(first[1], last[1]), c)
        seen = x[here]
        y[n, i, j, c] = seen.max() if kind == "max" else seen.mean()
        if dy is not None and kind == "max":
            row, column = np.unravel_index(np.argmax(seen), seen.shape)
            dx[n, first[0] + row, first[1] + column, c] += dy[n, i, j, c]
        elif dy is not None:
            dx[here] += dy[n, i, j, c] / seen.size
    return y, dx


def evaluate(
    pool: Pool, mode: str, x: Array, dy: Array, case: Any, dtype: str, data_format: str = "NHWC"
) -> tuple[Array, Array]:
    """Output and gradient on a target, channels last, in float64."""
    _, size, strides, padding = case
    swap = data_format == "NCHW"

    def run(x: tf.Tensor, dy: tf.Tensor) -> Any:
        with target.tracing_for(mode), tf.GradientTape() as tape:  # type: ignore[arg-type]
            tape.watch(x)
            y = pool(x, size, strides, padding, data_format)
            return y, tape.gradient(y, x, dy)

    compiled: Callable[..., Any] = run
    if mode != "eager":
        compiled = tf.function(run, jit_compile=mode == "xla", autograph=False)
    results = compiled(*(tf.cast(np.moveaxis(v, -1, 1) if swap else v, dtype) for v in (x, dy)))
    assert {r.dtype.name for r in results} == {dtype}
    y, dx = (np.asarray(tf.cast(r, tf.float64)) for r in results)
    return (np.moveaxis(y, 1, -1), np.moveaxis(dx, 1, -1)) if swap else (y, dx)


def arguments(case: Any, kind: str, ties: bool = False) -> tuple[Array, Array, Array, Array]:
    """x, dy, y, dx. With ties, x has few distinct values, and many zeros as after a ReLU."""
    rng = np.random.default_rng(len(str(case)))
    shape = (2, *case[0], 3)
    x = rng.integers(-2, 3, shape).clip(0).astype(float) if ties else rng.normal(-0.7, 1, shape)
    y, _ = direct(x, None, case, kind)
    dy = rng.normal(0.3, 1, y.shape)
    return (x, dy, *direct(x, dy, case, kind))


@pytest.mark.parametrize("case", CASES)
def test_equals_the_direct_form(case: Any) -> None:
    """Maximum and mean, and their gradients, equal the direct form's, ties included."""
    for kind, pool, ties in (
        ("max", max_pool2d, False),
        ("max", max_pool2d, True),
        ("avg", avg_pool2d, False),
    ):
        x, dy, y, dx = arguments(case, kind, ties)
        for mode in ("eager", "xla"):
            found = evaluate(pool, mode, x, dy, case, "float64")
            np.testing.assert_allclose(found[0], y, atol=1e-12, err_msg=f"{kind} {mode} y")
            np.testing.assert_allclose(found[1], dx, atol=1e-12, err_msg=f"{kind} {mode} dx")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_dtypes_and_layouts(data_format: str, dtype: str) -> None:
    """Every dtype in both layouts agrees on every target with the direct form on its inputs."""
    case = CASES[3]
    for kind, pool in (("max", max_pool2d), ("avg", avg_pool2d)):
        x, dy, _, _ = arguments(case, kind)
        x, dy = (np.asarray(tf.cast(tf.cast(v, dtype), tf.float64)) for v in (x, dy))
        expected = direct(x, dy, case, kind)
        tolerance = {"float32": 2e-6, "bfloat16": 4e-2, "float16": 5e-3}[dtype]
        for mode in ("eager", "graph", "xla"):
            found = evaluate(pool, mode, x, dy, case, dtype, data_format)
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, atol=tolerance, err_msg=f"{kind} {mode}")


def test_second_derivative_of_the_mean_of_maxima() -> None:
    """A function of the gradient differentiates again, under XLA as in TensorFlow's operation."""
    x, dy, _, _ = arguments(CASES[3], "max")

    def gradient(pool: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_sum(tf.sin(pool(x)) * dy)
            value = tf.reduce_sum(tf.square(inner.gradient(loss, x)))
        return outer.gradient(value, x)

    @tf.function(jit_compile=True, autograph=False)
    def ours(x: tf.Tensor) -> Any:
        with target.tracing_for("xla"):
            return [
                gradient(lambda v: max_pool2d(v, 3, 2, "SAME"), x),
                gradient(lambda v: avg_pool2d(v, 3, 2, "SAME"), x),
            ]

    maxima, means = ours(tf.constant(x))
    for found, operation in ((maxima, tf.nn.max_pool2d), (means, tf.nn.avg_pool2d)):
        expected = gradient(lambda v, op=operation: op(v, 3, 2, "SAME"), tf.constant(x))
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("mode", ["eager", "xla"])
def test_empty_batch(mode: str) -> None:
    """An empty batch gives an empty output and gradient."""
    x, dy = np.zeros((0, 6, 8, 3)), np.zeros((0, 3, 4, 3))
    for pool in (max_pool2d, avg_pool2d):
        y, dx = evaluate(pool, mode, x, dy, CASES[0], "float32")
        assert y.shape == dy.shape
        assert dx.shape == x.shape


def test_bad_arguments_are_named() -> None:
    """Each bad argument raises at the call and is named in the message."""
    x = tf.ones([2, 6, 6, 3])
    with pytest.raises(ValueError, match="size"):
        max_pool2d(x, (2, 0))
    with pytest.raises(ValueError, match="padding"):
        avg_pool2d(x, 2, padding="FULL")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="4 axes"):
        max_pool2d(x[0], 2)
