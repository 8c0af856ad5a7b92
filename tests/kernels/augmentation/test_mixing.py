"""Mixup, CutMix and their Beta draws against formulas, closed forms and every target."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kernels import inverse_cdf, random
from kernels.augmentation.mixing import _lower_quantile, beta, cutmix, mixed_one_hot, mixup
from tests.kernels.augmentation.test_affine import forms, random_images
from tests.kernels.test_random import kolmogorov_smirnov

SEED, STEP = -3, 77


def at(count: int) -> dict[str, Any]:
    """The place of `count` examples."""
    return {"seed": SEED, "step": STEP, "positions": tf.range(count)}


def shares(count: int, stream: str, alpha: float) -> Any:
    """The Beta draws of the file's seed."""
    return beta(SEED, stream, STEP, tf.range(count), alpha=alpha).numpy()


CLOSED_FORMS: dict[float, Callable[[Any], Any]] = {
    0.5: lambda x: 2 / math.pi * np.arcsin(np.sqrt(x)),
    1.0: lambda x: x,
    2.0: lambda x: 3 * x**2 - 2 * x**3,
    3.0: lambda x: 10 * x**3 - 15 * x**4 + 6 * x**5,
}


@pytest.mark.parametrize("alpha", list(CLOSED_FORMS))
def test_beta_quantiles_invert_the_closed_forms(alpha: float) -> None:
    """The tabulated function inverts Beta's distribution where that has a closed form."""
    tail = np.concatenate([2.0 ** -np.arange(1.0, 33.0), np.linspace(1e-3, 0.5, 99)])
    got = _lower_quantile(tail, alpha)
    np.testing.assert_allclose(CLOSED_FORMS[alpha](got), tail, rtol=1e-11)
    words = random.bits(SEED, "b", STEP, tf.range(20_000)).numpy()
    below = ((words & 0x7FFFFFFF) | 1) * 2.0**-32
    exact = _lower_quantile(below, alpha)
    want = np.where(words >> np.uint32(31) == 0, 1 - exact, exact)
    np.testing.assert_allclose(shares(20_000, "b", alpha), want, rtol=0, atol=2e-6)
    assert kolmogorov_smirnov(shares(20_000, "b", alpha), CLOSED_FORMS[alpha]) < 1.95


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.4, 1.5, 7.3, 100.0])
def test_beta_moments(alpha: float) -> None:
    """Mean, variance and fourth moment are those of Beta(alpha, alpha), within four deviations."""
    value = shares(40_000, "m", alpha).astype(np.float64) - 0.5
    assert np.abs(value).max() <= 0.5
    variance = 1 / (4 * (2 * alpha + 1))
    fourth = 3 / (16 * (2 * alpha + 1) * (2 * alpha + 3))
    eighth = fourth * 35 / (16 * (2 * alpha + 5) * (2 * alpha + 7))
    assert abs(value.mean()) < 4 * math.sqrt(variance / 40_000)
    assert abs((value**2).mean() - variance) < 4 * math.sqrt((fourth - variance**2) / 40_000)
    assert abs((value**4).mean() - fourth) < 4 * math.sqrt((eighth - fourth**2) / 40_000)


def test_draws_and_mixes_agree_on_every_target() -> None:
    """Shares have the same bits in eager, graph and XLA; images agree to one rounding."""
    images = tf.constant(random_images(9, 7, 6, 2), tf.float32)
    partners = tf.constant(random_images(9, 7, 6, 2, seed=5), tf.float32)

    def all_kinds(images: tf.Tensor, partners: tf.Tensor) -> Any:
        return [
            kind(images, partners, alpha=alpha, **at(9))
            for kind in (mixup, cutmix)
            for alpha in (0.2, 1.0)
        ]

    results = forms(all_kinds, images, partners)
    for name, values in results.items():
        for (mixed, share), (first, first_share) in zip(values, results["eager"], strict=True):
            assert share.numpy().tobytes() == first_share.numpy().tobytes(), name
            np.testing.assert_allclose(mixed, first, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64, tf.float16, tf.bfloat16])
def test_mixup_is_the_weighted_mean(dtype: Any) -> None:
    """Images are share * image + (1 - share) * partner, rounded once to their dtype."""
    images = tf.cast(random_images(20, 4, 5, 2), dtype)
    partners = tf.cast(random_images(20, 4, 5, 2, seed=8), dtype)
    mixed, share = mixup(images, partners, alpha=0.4, **at(20))
    np.testing.assert_array_equal(share, shares(20, "mixup/share", 0.4))
    weight = share.numpy().astype(np.float64)[:, None, None, None]
    own, other = (tf.cast(value, tf.float64).numpy() for value in (images, partners))
    want = weight * own + (1 - weight) * other
    assert mixed.dtype == dtype
    step = {tf.float64: 1e-15, tf.float32: 1e-7, tf.float16: 2.0**-11, tf.bfloat16: 2.0**-8}[dtype]
    bound = step * np.abs(want) + min(step, 1e-6) * 4 * (np.abs(own) + np.abs(other))
    assert (np.abs(tf.cast(mixed, tf.float64).numpy() - want) <= bound).all()


@pytest.mark.parametrize("dtype", [tf.float32, tf.uint8])
def test_cutmix_pastes_the_drawn_rectangle(dtype: Any) -> None:
    """Each image has one rectangle of its partner's, and the share counts the pixels left."""
    rng = np.random.default_rng(2)
    images = rng.integers(0, 100, (60, 9, 12, 2))
    partners = rng.integers(100, 200, (60, 9, 12, 2))
    mixed, share = cutmix(tf.cast(images, dtype), tf.cast(partners, dtype), alpha=1.0, **at(60))
    side = np.sqrt(1 - shares(60, "cutmix/share", 1.0).astype(np.float64))
    centers = random.uniform(SEED, "cutmix/center", STEP, tf.range(60), (2,)).numpy()
    want = images.copy()
    kept: list[float] = []
    for i in range(60):
        spans = []
        for axis, size in enumerate((9, 12)):
            length = int(side[i] * size)
            low = int(centers[i, axis] * size) - length // 2
            spans.append(slice(max(low, 0), min(low + length, size)))
        want[i][tuple(spans)] = partners[i][tuple(spans)]
        kept.append(float((want[i] < 100).mean()))
    assert mixed.dtype == dtype
    np.testing.assert_array_equal(mixed, want)
    np.testing.assert_allclose(share, kept, rtol=1e-6)
    assert np.std(kept) > 0.1


def test_labels_are_mixed_by_the_share() -> None:
    """Rows hold share on the label and the rest on the partner's; equal labels give one."""
    labels, partners = tf.constant([2, 0, 1]), tf.constant([0, 0, 3])
    got = mixed_one_hot(labels, partners, tf.constant([0.3, 0.9, 1.0]), 4)
    np.testing.assert_allclose(
        got, [[0.7, 0.0, 0.3, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]], rtol=0, atol=1e-7
    )
    half = mixed_one_hot(labels, partners, tf.constant([0.3, 0.9, 1.0]), 4, tf.bfloat16)
    assert half.dtype == tf.bfloat16


@pytest.mark.parametrize("form", ["eager", "graph", "xla"])
def test_a_label_out_of_range_marks_its_row(form: str) -> None:
    """Own or partner's, past the end or negative: NaN, and no row whose sum is silently below 1."""
    function = tf.function(mixed_one_hot, jit_compile=form == "xla", autograph=False)
    labels, partners = tf.constant([0, 4, 1, 2, -1]), tf.constant([3, 0, -2, 2, 1])
    share = tf.constant([0.25, 1.0, 1.0, 0.5, 0.0])
    got = (mixed_one_hot if form == "eager" else function)(labels, partners, share, 4)
    nan = np.full(4, np.nan)
    expected = [[0.25, 0, 0, 0.75], nan, nan, [0, 0, 1, 0], nan]
    np.testing.assert_allclose(got, expected, atol=1e-7)


def test_empty_batch_and_single_pixel() -> None:
    """No example, and images of one pixel, come back in their shapes."""
    for shape in ((0, 3, 3, 1), (4, 1, 1, 1)):
        images = tf.ones(shape)
        for kind in (mixup, cutmix):
            mixed, share = kind(images, 2 * images, alpha=1.0, **at(shape[0]))
            assert mixed.shape == shape
            assert share.shape == shape[:1]
            np.testing.assert_allclose(mixed.numpy().ravel(), 2 - share.numpy(), atol=1e-6)


def test_wrong_arguments_raise() -> None:
    """A bad alpha, and partners of another shape or dtype, are refused."""
    images = tf.ones([2, 3, 3, 1])
    for alpha in (0.0, -1.0, math.inf, math.nan, 101.0):
        with pytest.raises(ValueError, match="alpha"):
            mixup(images, images, alpha=alpha, **at(2))
    with pytest.raises(ValueError, match="shape"):
        cutmix(images, images[:1], alpha=1.0, **at(2))
    with pytest.raises(TypeError, match="dtype"):
        cutmix(images, tf.cast(images, tf.float64), alpha=1.0, **at(2))
    with pytest.raises(TypeError, match="float images"):
        mixup(tf.cast(images, tf.uint8), tf.cast(images, tf.uint8), alpha=1.0, **at(2))


def test_table_of_any_symmetric_distribution() -> None:
    """The table inverts a logistic distribution too, centred and antisymmetric."""
    bases, slopes = inverse_cdf.table(lambda tail: np.log1p(-tail) - np.log(tail))
    words = random.bits(1, "logistic", 0, tf.range(50_000))
    value = inverse_cdf.deviation(words, bases, slopes).numpy()
    assert kolmogorov_smirnov(value, lambda x: 1 / (1 + np.exp(-x))) < 1.95
    mirrored = inverse_cdf.deviation(words ^ tf.constant(1 << 31, tf.uint32), bases, slopes)
    np.testing.assert_array_equal(mirrored, -value)
