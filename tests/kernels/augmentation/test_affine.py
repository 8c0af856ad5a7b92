"""The affine resample against a float64 reading of the extended image, on every target."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import target
from kernels.augmentation import affine, affine_maps

Array = npt.NDArray[np.float64]
FILLS: tuple[affine.Fill, ...] = ("nearest", "constant", "reflect", "wrap")
WAYS: tuple[affine.Interpolation, ...] = ("bilinear", "nearest")
FILL_VALUE = -1.7


def extended(image: Array, y: Any, x: Any, fill: str) -> Any:
    """Pixels of the image that goes on for ever, by whole coordinates."""
    height, width, _ = image.shape
    if fill == "nearest":
        return image[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    if fill == "wrap":
        return image[y % height, x % width]
    if fill == "reflect":
        y, x = y % (2 * height), x % (2 * width)
        return image[np.minimum(y, 2 * height - 1 - y), np.minimum(x, 2 * width - 1 - x)]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    pixels = image[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    return np.where(inside[..., None], pixels, FILL_VALUE)


def resampled(images: Array, matrices: Array, fill: str, interpolation: str) -> Array:
    """The float64 truth of `affine_transform`."""
    _, height, width, _ = images.shape
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    result = np.zeros(images.shape)
    for index, (image, m) in enumerate(zip(images, matrices, strict=True)):
        x = m[0] * columns + m[1] * rows + m[2]
        y = m[3] * columns + m[4] * rows + m[5]
        if interpolation == "nearest":
            x, y = np.floor(x + 0.5).astype(int), np.floor(y + 0.5).astype(int)
            result[index] = extended(image, y, x, fill)
            continue
        for dy, dx in itertools.product((0, 1), (0, 1)):
            at_y, at_x = np.floor(y).astype(int) + dy, np.floor(x).astype(int) + dx
            weight = (1 - np.abs(y - at_y)) * (1 - np.abs(x - at_x))
            result[index] += weight[..., None] * extended(image, at_y, at_x, fill)
    return result


def random_images(*shape: int, seed: int = 0) -> Array:
    """Uneven images: a slope, an offset and noise."""
    values = np.random.default_rng(seed).normal(0.7, 1.0, shape)
    slope: Array = values + np.linspace(-1, 2, shape[2])[None, None, :, None] ** 2
    return slope


def random_matrices(batch: int, height: int, width: int, seed: int = 1) -> Array:
    """Maps that rotate, scale and shift up to far beyond the border."""
    rng = np.random.default_rng(seed)
    linear = np.eye(2) + rng.normal(0, 0.6, (batch, 2, 2))
    size = np.array([width, height])
    center = (size - 1) / 2 - linear @ ((size - 1) / 2)
    offset = center + rng.normal(0, 0.8, (batch, 2)) * size
    return np.concatenate([linear, offset[..., None]], -1).reshape(batch, 6)


def forms(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """The function's result traced for graph and for XLA."""

    def traced(compiler: target.Compiler) -> Any:
        def body(*inputs: Any) -> Any:
            with target.tracing_for(compiler):
                return function(*inputs)

        return tf.function(body, jit_compile=compiler == "xla")(*arguments)

    return {"eager": function(*arguments), "graph": traced("graph"), "xla": traced("xla")}


def test_every_fill_and_interpolation_equals_the_truth_on_every_target() -> None:
    """All fills and interpolations, float32 and float64, equal the extended image's reading."""
    images, matrices = random_images(6, 7, 10, 3), random_matrices(6, 7, 10)
    kinds = list(itertools.product(FILLS, WAYS, (tf.float32, tf.float64)))

    def all_kinds(images: tf.Tensor, matrices: tf.Tensor) -> list[tf.Tensor]:
        return [
            affine.affine_transform(
                tf.cast(images, dtype),
                matrices,
                fill=fill,
                fill_value=FILL_VALUE,
                interpolation=interpolation,
            )
            for fill, interpolation, dtype in kinds
        ]

    results = forms(all_kinds, tf.constant(images), tf.constant(matrices))
    for name, values in results.items():
        for (fill, interpolation, dtype), value in zip(kinds, values, strict=True):
            assert value.dtype == dtype
            want = resampled(images, matrices, fill, interpolation)
            tolerance = 3e-5 if dtype == tf.float32 else 1e-12
            np.testing.assert_allclose(
                value.numpy(), want, rtol=0, atol=tolerance, err_msg=f"{name} {fill}"
            )


def test_other_dtypes_are_rounded_once() -> None:
    """float16, bfloat16 and uint8 images are resampled in float32 and rounded at the end."""
    matrices = random_matrices(5, 9, 8)
    whole = np.random.default_rng(4).integers(0, 256, (5, 9, 8, 2))
    images = random_images(5, 9, 8, 2)

    def all_dtypes(images: tf.Tensor, whole: tf.Tensor, matrices: tf.Tensor) -> list[tf.Tensor]:
        return [
            affine.affine_transform(value, matrices, interpolation=interpolation)
            for interpolation in WAYS
            for value in (
                tf.cast(images, tf.float16),
                tf.cast(images, tf.bfloat16),
                tf.cast(whole, tf.uint8),
            )
        ]

    arguments = tf.constant(images), tf.constant(whole), tf.constant(matrices)
    sources = [
        tf.cast(images, tf.float16).numpy().astype(np.float64),
        tf.cast(images, tf.bfloat16).numpy().astype(np.float64),
        whole.astype(np.float64),
    ]
    for values in forms(all_dtypes, *arguments).values():
        for index, value in enumerate(values):
            want = resampled(sources[index % 3], matrices, "nearest", WAYS[index // 3])
            step = (2.0**-10, 2.0**-7, 0.0)[index % 3]
            tolerance = np.abs(want) * step + (1e-4 if index % 3 < 2 else 0.501)
            assert (np.abs(value.numpy().astype(np.float64) - want) <= tolerance).all()


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(0, 3),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    channels=st.integers(1, 4),
    fill=st.sampled_from(FILLS),
    interpolation=st.sampled_from(WAYS),
    seed=st.integers(0, 1000),
)
def test_any_shape(
    batch: int,
    height: int,
    width: int,
    channels: int,
    fill: affine.Fill,
    interpolation: affine.Interpolation,
    seed: int,
) -> None:
    """Empty batches, single pixels and odd sizes equal the truth in both forms."""
    images = random_images(batch, height, width, channels, seed=seed)
    matrices = random_matrices(batch, height, width, seed=seed)
    want = resampled(images, matrices, fill, interpolation)
    for compiler in ("eager", "xla"):
        with target.tracing_for(compiler):
            got = affine.affine_transform(
                tf.constant(images, tf.float32),
                tf.constant(matrices),
                fill=fill,
                fill_value=FILL_VALUE,
                interpolation=interpolation,
            )
        np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-4)


def test_unknown_batch_size() -> None:
    """A batch of unknown size, also empty, runs in both forms."""
    images, matrices = random_images(4, 5, 6, 1), random_matrices(4, 5, 6)
    for compiler in ("graph", "xla"):

        def body(
            images: tf.Tensor, matrices: tf.Tensor, compiler: target.Compiler = compiler
        ) -> tf.Tensor:
            with target.tracing_for(compiler):
                return affine.affine_transform(images, matrices)

        run = tf.function(
            body,
            jit_compile=compiler == "xla",
            input_signature=[
                tf.TensorSpec([None, 5, 6, 1], tf.float32),
                tf.TensorSpec([None, 6], tf.float32),
            ],
        )
        got = run(tf.constant(images, tf.float32), tf.constant(matrices, tf.float32))
        want = resampled(images, matrices, "nearest", "bilinear")
        np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=3e-5)
        assert run(tf.zeros([0, 5, 6, 1]), tf.zeros([0, 6])).shape == (0, 5, 6, 1)


def test_gradients_equal_finite_differences_and_agree_over_targets() -> None:
    """Gradients to images and matrices equal central differences; graph has the gathers'."""
    images, matrices = random_images(2, 5, 4, 2), random_matrices(2, 5, 4) + 0.0123
    weights = np.random.default_rng(3).normal(size=images.shape)

    def loss(images: Array, matrices: Array) -> float:
        return float((weights * resampled(images, matrices, "constant", "bilinear")).sum())

    def differences(which: int) -> Array:
        arguments = [images, matrices]
        result = np.zeros(arguments[which].shape)
        for index in np.ndindex(result.shape):
            sides = []
            for step in (1e-6, -1e-6):
                moved = [argument.copy() for argument in arguments]
                moved[which][index] += step
                sides.append(loss(*moved))
            result[index] = (sides[0] - sides[1]) / 2e-6
        return result

    def gradients(images: tf.Tensor, matrices: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([images, matrices])
            value = affine.affine_transform(
                images, matrices, fill="constant", fill_value=FILL_VALUE
            )
            total = tf.reduce_sum(value * tf.cast(weights, value.dtype))
        return tape.gradient(total, [images, matrices])

    want = [differences(0), differences(1)]
    for got, truth in zip(gradients(tf.constant(images), tf.constant(matrices)), want, strict=True):
        np.testing.assert_allclose(got.numpy(), truth, rtol=1e-5, atol=1e-5)
    single = tf.constant(images, tf.float32), tf.constant(matrices, tf.float32)
    for values in forms(gradients, *single).values():
        for got, truth in zip(values, want, strict=True):
            np.testing.assert_allclose(got.numpy(), truth, rtol=1e-3, atol=1e-3)


def composed(height: int, width: int, p: dict[str, float]) -> Array:
    """The map as a product of 3 x 3 matrices, keras's factors among them."""
    r, s = p.get("rotation", 0.0), p.get("shear", 0.0)
    c_x, c_y = (width - 1) / 2, (height - 1) / 2
    product: Array = (
        np.array([[1, 0, c_x], [0, 1, c_y], [0, 0, 1]])
        @ np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
        @ np.array([[1, 0, p.get("shift_x", 0.0)], [0, 1, p.get("shift_y", 0.0)], [0, 0, 1]])
        @ np.array([[1, -math.sin(s), 0], [0, math.cos(s), 0], [0, 0, 1]])
        @ np.diag([p.get("zoom_x", 1.0), p.get("zoom_y", 1.0), 1])
        @ np.array([[1, 0, p.get("window_x", 0.0)], [0, 1, p.get("window_y", 0.0)], [0, 0, 1]])
        @ np.diag([p.get("window_width", 1.0), p.get("window_height", 1.0), 1])
        @ np.array([[1, 0, -c_x], [0, 1, -c_y], [0, 0, 1]])
    )
    return product[:2].ravel()


PARAMETERS = {
    "rotation": 0.4,
    "shift_x": 1.7,
    "shift_y": -2.3,
    "shear": -0.3,
    "zoom_x": 1.2,
    "zoom_y": 0.7,
    "window_x": 2.5,
    "window_y": -1.1,
    "window_width": -0.8,
    "window_height": 0.6,
}


@pytest.mark.parametrize("names", [*([name] for name in PARAMETERS), list(PARAMETERS)])
def test_matrices_equal_the_product_of_their_factors(names: list[str]) -> None:
    """The closed form equals the product of 3 x 3 factors, of floats and of tensors."""
    chosen = {name: PARAMETERS[name] for name in names}
    want = composed(7, 10, chosen)
    np.testing.assert_allclose(
        affine_maps.affine_matrices(7, 10, **chosen).numpy(), want, atol=1e-5
    )
    tensors = {name: tf.constant([0.0, value]) for name, value in chosen.items()}
    np.testing.assert_allclose(
        affine_maps.affine_matrices(7, 10, **tensors)[1].numpy(), want, atol=1e-5
    )


def test_flip_and_whole_shift_are_exact() -> None:
    """A flip is the reversed image, and a shift by whole pixels copies pixels, to the bit."""
    images = tf.constant(random_images(2, 5, 8, 2), tf.float32)
    flip = tf.tile(affine_maps.affine_matrices(5, 8, window_width=-1.0)[tf.newaxis], [2, 1])
    shift = tf.tile(affine_maps.affine_matrices(5, 8, shift_x=3.0)[tf.newaxis], [2, 1])
    for compiler in ("eager", "xla"):
        with target.tracing_for(compiler):
            flipped = affine.affine_transform(images, flip).numpy()
            shifted = affine.affine_transform(images, shift).numpy()
        np.testing.assert_array_equal(flipped, images.numpy()[:, :, ::-1])
        np.testing.assert_array_equal(shifted[:, :, :5], images.numpy()[:, :, 3:])


def test_bad_arguments_say_what_is_wrong() -> None:
    """Wrong dtypes, shapes and names raise."""
    images, matrices = tf.zeros([2, 3, 3, 1]), tf.zeros([2, 6])
    with pytest.raises(TypeError, match="int32"):
        affine.affine_transform(tf.cast(images, tf.int32), matrices)
    with pytest.raises(ValueError, match=r"\[B, H, W, C\]"):
        affine.affine_transform(images[0], matrices)
    with pytest.raises(ValueError, match=r"matrices \[B, 6\]"):
        affine.affine_transform(images, matrices[:, :5])
    with pytest.raises(ValueError, match="fill"):
        affine.affine_transform(images, matrices, fill="mirror")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="interpolation"):
        affine.affine_transform(images, matrices, interpolation="cubic")  # type: ignore[arg-type]
