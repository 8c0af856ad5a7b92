"""Batch norm against NumPy in float64, Keras, TensorFlow's op and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import target
from kernels.normalization.batch_norm import batch_norm_inference, batch_norm_training

Array = npt.NDArray[Any]
EPSILON = 1e-3
# Rounding of y (of order 1) and of gradients (of order 10) in each dtype.
TOLERANCE = {"float64": 1e-10, "float32": 2e-5, "float16": 2e-2, "bfloat16": 1.6e-1}


def truth(
    x: Array, scale: Array, offset: Array, dy: Array, *, mask: Array | None = None, relu: bool
) -> dict[str, Array]:
    """Ioffe and Szegedy's equations on [B, ..., C] in float64, for the real examples only."""
    real = np.ones(len(x), bool) if mask is None else mask
    axes = tuple(range(x.ndim - 1))
    kept, kept_dy = x[real], dy[real]
    mean, variance = kept.mean(axes), kept.var(axes)
    deviation = 1 / np.sqrt(variance + EPSILON)
    normal = (kept - mean) * deviation
    y = normal * scale + offset
    if relu:
        kept_dy, y = kept_dy * (y > 0), np.maximum(y, 0)
    dscale, doffset = (kept_dy * normal).sum(axes), kept_dy.sum(axes)
    count = kept[..., 0].size
    dx = scale * deviation * (kept_dy - doffset / count - normal * dscale / count)
    results = {"y": np.zeros_like(x), "dx": np.zeros_like(x)}
    results["y"][real], results["dx"][real] = y, dx
    return {**results, "mean": mean, "variance": variance, "dscale": dscale, "doffset": doffset}


def inputs(shape: tuple[int, ...], seed: int = 0, mean: float = 1.5) -> dict[str, Array]:
    """Random, asymmetric, mean-shifted arguments for channels last."""
    rng = np.random.default_rng(seed)
    channels = shape[-1]
    spread = np.exp(rng.normal(size=channels))
    return {
        "x": mean + rng.gamma(2.0, 1.0, shape) * spread + rng.normal(size=channels),
        "dy": rng.normal(0.3, 1, shape),
        "scale": rng.normal(1.2, 0.5, channels),
        "offset": rng.normal(0.4, 1, channels),
    }


def evaluate(
    a: dict[str, Array], dtype: str, mode: str = "eager", **options: Any
) -> dict[str, Array]:
    """y, statistics and gradients on a target, as float64 arrays with channels last."""
    swap = options.get("data_format") == "NCHW"
    x, dy = (np.moveaxis(a[k], -1, 1) if swap else a[k] for k in ("x", "dy"))
    wide = tf.float64 if dtype == "float64" else tf.float32

    def run(x: tf.Tensor, dy: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> Any:
        with target.tracing_for(mode), tf.GradientTape() as tape:  # type: ignore[arg-type]
            tape.watch([x, scale, offset])
            y, moments = batch_norm_training(x, scale, offset, epsilon=EPSILON, **options)
            gradients = tape.gradient(y, [x, scale, offset], dy)
        return (y, moments.mean, moments.variance, moments.count, *gradients)

    compiled: Callable[..., Any] = run
    if mode != "eager":
        compiled = tf.function(run, jit_compile=mode == "xla", autograph=False)
    results = compiled(
        tf.cast(x, dtype), tf.cast(dy, dtype), tf.cast(a["scale"], wide), tf.cast(a["offset"], wide)
    )
    assert results[0].dtype.name == results[4].dtype.name == dtype
    assert results[1].dtype == results[2].dtype == wide
    names = ("y", "mean", "variance", "count", "dx", "dscale", "doffset")
    found = {n: np.asarray(tf.cast(r, tf.float64)) for n, r in zip(names, results, strict=True)}
    if swap:
        found["y"], found["dx"] = (np.moveaxis(found[k], 1, -1) for k in ("y", "dx"))
    return found


def assert_close(found: dict[str, Array], expected: dict[str, Array], tolerance: float) -> None:
    """All results are within `tolerance` of the truth, relative to the truth's largest value."""
    for name, value in expected.items():
        size = max(float(np.abs(value).max(initial=0)), 1.0)
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance * size, err_msg=name)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("shape", "data_format"), [((9, 5), "NHWC"), ((6, 4, 3, 5), "NHWC"), ((6, 4, 3, 5), "NCHW")]
)
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_training_equals_numpy(
    mode: str, shape: tuple[int, ...], data_format: str, dtype: str
) -> None:
    """Output, statistics and gradients equal the paper's equations in every mode and dtype."""
    a = inputs(shape)
    # The truth starts from the inputs as the dtype holds them.
    a["x"], a["dy"] = (np.asarray(tf.cast(tf.cast(a[k], dtype), tf.float64)) for k in ("x", "dy"))
    # Half types round y at the ReLU's kink, so there the comparison is without it.
    relu = dtype in ("float64", "float32")
    found = evaluate(a, dtype, mode, data_format=data_format, relu=relu)
    expected = truth(a["x"], a["scale"], a["offset"], a["dy"], relu=relu)
    tolerance = TOLERANCE[dtype]
    assert_close(found, expected, tolerance)
    statistics = {k: expected[k] for k in ("mean", "variance")}
    assert_close(found, statistics, min(tolerance, 2e-5))
    assert found["count"] == np.prod(shape[:-1])


@pytest.mark.parametrize("mode", ["eager", "xla"])
@pytest.mark.parametrize(
    ("shape", "data_format"), [((8, 130), "NHWC"), ((8, 3, 5, 4), "NHWC"), ((8, 3, 5, 4), "NCHW")]
)
def test_mask_leaves_padding_out(mode: str, shape: tuple[int, ...], data_format: str) -> None:
    """Masked rows count in no moment and no gradient, whatever they hold, and give 0."""
    a = inputs(shape)
    mask = np.array([False, True, True, False, True, True, True, False])
    expected = truth(a["x"], a["scale"], a["offset"], a["dy"], mask=mask, relu=True)
    a["x"][~mask] = 1e6
    found = evaluate(a, "float32", mode, data_format=data_format, relu=True, mask=tf.constant(mask))
    assert_close(found, expected, TOLERANCE["float32"])
    assert found["count"] == mask.sum() * np.prod(shape[1:-1])


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("shape", [(64, 6), (16, 4, 4, 6)])
def test_statistics_survive_a_large_mean(mode: str, shape: tuple[int, ...]) -> None:
    """At mean 1e4 and deviation 1 the float32 variance keeps what float32 inputs hold."""
    rng = np.random.default_rng(3)
    a = {**inputs(shape), "x": rng.normal(1e4, 1, shape).astype(np.float32).astype(np.float64)}
    found = evaluate(a, "float32", mode)
    np.testing.assert_allclose(found["mean"], a["x"].reshape(-1, 6).mean(0), rtol=3e-7)
    np.testing.assert_allclose(found["variance"], a["x"].reshape(-1, 6).var(0), rtol=2e-5)
    expected = truth(a["x"], a["scale"], a["offset"], a["dy"], relu=False)
    np.testing.assert_allclose(found["y"], expected["y"], atol=5e-3)


@pytest.mark.parametrize("shape", [(16, 6), (4, 5, 3, 6)])
@pytest.mark.parametrize("mode", ["eager", "xla"])
def test_returned_variance_matches_keras_and_compat_v1(mode: str, shape: tuple[int, ...]) -> None:
    """Biased is what Keras 3 stores; Bessel-corrected is what the fused op returns."""
    a = inputs(shape)
    layer = keras.layers.BatchNormalization(momentum=0.0, epsilon=EPSILON)
    output = layer(tf.constant(a["x"], tf.float32), training=True)
    biased = evaluate(a, "float32", mode)["variance"]
    np.testing.assert_allclose(biased, layer.moving_variance.numpy(), rtol=2e-5)
    ones = {**a, "scale": np.ones(6), "offset": np.zeros(6)}
    np.testing.assert_allclose(evaluate(ones, "float32", mode)["y"], output.numpy(), atol=2e-5)
    fused = tf.raw_ops.FusedBatchNormV3(
        x=tf.reshape(tf.constant(a["x"], tf.float32), [-1, 1, 1, 6]),
        scale=tf.ones(6),
        offset=tf.zeros(6),
        mean=[],
        variance=[],
        epsilon=EPSILON,
    )
    bessel = evaluate(a, "float32", mode, bessel=True)
    np.testing.assert_allclose(bessel["variance"], fused.batch_variance.numpy(), rtol=2e-5)
    np.testing.assert_allclose(bessel["y"], evaluate(a, "float32", mode)["y"], atol=1e-6)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("shape", [(0, 5), (0, 4, 3, 5)])
def test_empty_batch_gives_zeros(mode: str, shape: tuple[int, ...]) -> None:
    """An empty batch has count 0, finite statistics and zero gradients."""
    a = inputs(shape)
    for bessel in (False, True):
        found = evaluate(a, "float32", mode, relu=True, bessel=bessel)
        assert found["count"] == 0
        for name in ("mean", "variance", "dscale", "doffset"):
            np.testing.assert_array_equal(found[name], 0, err_msg=name)


def test_empty_batch_of_unknown_size_gives_zeros() -> None:
    """Where only the run shows that the batch is empty, the statistics are finite too."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 3, 5])], autograph=False)
    def run(x: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, moments = batch_norm_training(x, tf.ones(5), tf.zeros(5), bessel=True)
        return y, moments, tape.gradient(y, x)

    y, moments, dx = run(tf.zeros([0, 4, 3, 5]))
    assert y.shape == dx.shape == [0, 4, 3, 5]
    assert all(np.isfinite(m.numpy()).all() for m in moments)
    assert moments.count == 0


@pytest.mark.parametrize("mode", ["eager", "xla"])
def test_fully_masked_batch_gives_zeros(mode: str) -> None:
    """With every row masked the count is 0 and nothing is NaN."""
    found = evaluate(inputs((4, 3, 5)), "float32", mode, mask=tf.zeros([4], tf.bool))
    assert found["count"] == 0
    for name, value in found.items():
        np.testing.assert_array_equal(value, 0, err_msg=name)


@settings(max_examples=15, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple),
    seed=st.integers(0, 2**16),
    relu=st.booleans(),
    data_format=st.sampled_from(["NHWC", "NCHW"]),
)
def test_any_shape_equals_numpy(
    shape: tuple[int, ...], seed: int, relu: bool, data_format: str
) -> None:
    """Size 1 and odd sizes of any rank give the equations' results."""
    a = inputs(shape, seed)
    expected = truth(a["x"], a["scale"], a["offset"], a["dy"], relu=relu)
    for dtype in ("float64", "float32"):
        found = evaluate(a, dtype, relu=relu, data_format=data_format)
        # One value a channel is its own mean: what is left is rounding over sqrt(epsilon).
        assert_close(found, expected, 1e-8 if dtype == "float64" else 2e-3)


def test_scale_and_offset_may_be_left_out() -> None:
    """Without scale and offset the result is that of 1 and 0."""
    a = inputs((7, 3, 5))
    x = tf.constant(a["x"])
    for scale, offset in ((None, None), (a["scale"], None), (None, a["offset"])):
        y, _ = batch_norm_training(x, scale, offset)
        ones = np.ones(5) if scale is None else scale
        zeros = np.zeros(5) if offset is None else offset
        expected = truth(a["x"], ones, zeros, a["dy"], relu=False)["y"]
        np.testing.assert_allclose(y, expected, atol=1e-12)


def penalty(parts: list[tf.Tensor], mode: str, **options: Any) -> tf.Tensor:
    """A WGAN-like penalty: a function of the gradient with respect to the input."""
    x, scale, offset, dy = parts
    with target.tracing_for(mode), tf.GradientTape() as tape:  # type: ignore[arg-type]
        tape.watch(x)
        y, _ = batch_norm_training(x, scale, offset, relu=True, **options)
        loss = tf.reduce_sum(tf.square(y) * dy)
        return tf.reduce_sum(tf.square(tape.gradient(loss, x) - 0.3))


@pytest.mark.parametrize("shape", [(5, 3), (4, 2, 3, 3)])
@pytest.mark.parametrize("masked", [False, True])
def test_second_derivative_equals_finite_differences(shape: tuple[int, ...], masked: bool) -> None:
    """The gradient of a function of the gradient agrees with central differences in float64."""
    a = inputs(shape, seed=5)
    mask = tf.constant([True] * (shape[0] - 1) + [False]) if masked else None
    parts = [tf.constant(a[k]) for k in ("x", "scale", "offset", "dy")]
    with tf.GradientTape() as tape:
        tape.watch(parts[:3])
        value = penalty(parts, "eager", mask=mask)
    for place, gradient in enumerate(tape.gradient(value, parts[:3])):
        direction = np.random.default_rng(place).normal(size=parts[place].shape)
        moved = [
            penalty(
                [p + h * direction if i == place else p for i, p in enumerate(parts)],
                "eager",
                mask=mask,
            )
            for h in (1e-6, -1e-6)
        ]
        numeric = (moved[0] - moved[1]) / 2e-6
        np.testing.assert_allclose(np.sum(gradient * direction), numeric, rtol=2e-5)


def test_second_derivative_agrees_on_all_targets() -> None:
    """The fused op's second derivative in float32 equals the plain form's in float64, and XLA's."""
    a = inputs((4, 2, 3, 3), seed=5)
    parts = [tf.constant(a[k]) for k in ("x", "scale", "offset", "dy")]

    def gradient(mode: str, parts: list[tf.Tensor]) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(parts[:3])
            value = penalty(parts, mode)
        return tape.gradient(value, parts[:3])

    expected = gradient("eager", parts)
    for mode in ("eager", "graph", "xla"):
        run = tf.function(gradient, jit_compile=mode == "xla", autograph=False)
        found = (gradient if mode == "eager" else run)(
            mode, [tf.cast(p, tf.float32) for p in parts]
        )
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=3e-4 * np.abs(other).max(), err_msg=mode)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("shape", "data_format"), [((9, 5), "NHWC"), ((6, 4, 3, 5), "NHWC"), ((6, 4, 3, 5), "NCHW")]
)
def test_inference_equals_numpy(shape: tuple[int, ...], data_format: str, dtype: str) -> None:
    """Given moments normalise alike on every target, at a large mean too."""
    a = inputs(shape, mean=100.0)
    x = np.asarray(tf.cast(tf.cast(a["x"], dtype), tf.float64))
    mean, variance = x.reshape(-1, 5).mean(0) + 0.3, x.reshape(-1, 5).var(0) * 1.4
    y = (x - mean) / np.sqrt(variance + EPSILON) * a["scale"] + a["offset"]
    swapped = np.moveaxis(x, -1, 1) if data_format == "NCHW" else x

    def run(mode: str) -> tf.Tensor:
        with target.tracing_for(mode):  # type: ignore[arg-type]
            return batch_norm_inference(
                tf.cast(swapped, dtype),
                a["scale"],
                a["offset"],
                mean,
                variance,
                epsilon=EPSILON,
                data_format=data_format,  # type: ignore[arg-type]
                relu=True,
            )

    for mode in ("eager", "graph", "xla"):
        compiled = tf.function(run, jit_compile=mode == "xla", autograph=False)
        found = np.asarray(tf.cast((run if mode == "eager" else compiled)(mode), tf.float64))
        found = np.moveaxis(found, 1, -1) if data_format == "NCHW" else found
        tolerance = {"float64": 1e-10, "float32": 3e-5}.get(dtype, 8e-3)
        np.testing.assert_allclose(found, np.maximum(y, 0), rtol=tolerance, atol=tolerance)


def test_no_gradient_through_the_moments() -> None:
    """The returned moments are for storage: they stop gradients."""
    x = tf.constant(inputs((4, 3))["x"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        _, moments = batch_norm_training(x, None, None)
        total = tf.reduce_sum(moments.mean) + tf.reduce_sum(moments.variance)
    assert tape.gradient(total, x) is None


def test_bad_arguments_are_named() -> None:
    """Each bad argument raises at the call and is named in the message."""
    x = tf.ones([2, 3])
    with pytest.raises(ValueError, match="data_format"):
        batch_norm_training(x, None, None, data_format="NCWH")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="epsilon"):
        batch_norm_training(x, None, None, epsilon=-1.0)
    with pytest.raises(ValueError, match="mask"):
        batch_norm_training(x, None, None, mask=tf.ones([2]))
    with pytest.raises(ValueError, match=r"scale must be \[3\]"):
        batch_norm_training(x, tf.ones([2]), None)
    with pytest.raises(ValueError, match="shape"):
        batch_norm_training(tf.ones([3]), None, None)
    with pytest.raises(TypeError, match="floating"):
        batch_norm_inference(tf.ones([2, 3], tf.int32), None, None, tf.zeros(3), tf.ones(3))
