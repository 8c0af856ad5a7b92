"""Random bits: an independent NumPy truth, bit identity of all compilers, and statistics."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from kernels import inverse_cdf, random

Words = npt.NDArray[np.uint32]

FLOATS = (tf.float32, tf.float64, tf.float16, tf.bfloat16)
MASK = (1 << 64) - 1


def splitmix64(state: int) -> int:
    """The output function of SplitMix64, in Python's integers."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def word(seed: int, stream: str, step: int, position: int, element: int) -> int:
    """One word of `random.bits`, from the module docstring, in Python's integers."""
    golden = 0x9E3779B97F4A7C15
    name = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")
    start = splitmix64(((seed & MASK) + name) & MASK)
    key = splitmix64((start + ((step << 28) + position) * golden) & MASK)
    x = (key & 0xFFFFFFFF) ^ ((element * 0x9E3779B9) & 0xFFFFFFFF)
    x = ((x ^ (x >> 16)) * 0x21F0AAAD + (key >> 32)) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0xD35A2D97) & 0xFFFFFFFF
    return x ^ (x >> 15)


def draw(
    count: int, shape: tuple[int, ...] = (), seed: int = 5, stream: str = "test", step: int = 3
) -> Words:
    """Bits of positions 0 to count - 1."""
    result: Words = random.bits(seed, stream, step, tf.range(count), shape).numpy()
    return result


def chi_square_score(cells: npt.NDArray[Any], number: int) -> float:
    """Pearson's statistic of equal cells as a standard normal score (Wilson and Hilferty)."""
    counts = np.bincount(np.asarray(cells, np.int64).ravel(), minlength=number)
    expected = counts.sum() / number
    assert expected >= 5
    freedom = number - 1
    statistic = float(((counts - expected) ** 2 / expected).sum())
    spread = 2.0 / (9.0 * freedom)
    return float(((statistic / freedom) ** (1 / 3) - (1.0 - spread)) / math.sqrt(spread))


def kolmogorov_smirnov(sample: npt.NDArray[Any], cdf: Callable[[Any], Any]) -> float:
    """The root of n times the greatest distance between the empirical and the given cdf."""
    ordered = np.sort(np.asarray(sample, np.float64).ravel())
    n = len(ordered)
    expected = cdf(ordered)
    above = (np.arange(1, n + 1) / n - expected).max()
    below = (expected - np.arange(n) / n).max()
    return float(math.sqrt(n) * max(above, below))


def correlation_scores(left: Words, right: Words) -> npt.NDArray[np.float64]:
    """Standard normal scores of all 32 x 32 correlations of two samples' bits."""
    a, b = (
        (((x.ravel()[:, None] >> np.arange(32, dtype=np.uint32)) & 1) * 2.0 - 1.0).astype(
            np.float32
        )
        for x in (left, right)
    )
    return np.asarray(a.T @ b / math.sqrt(len(a)), np.float64)


def test_bits_equal_python_integers() -> None:
    """Words equal a written-out reference, itself held to SplitMix64's published first output."""
    assert splitmix64(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF
    positions = [0, 1, 77, 2**20]
    for seed, stream, step in ((0, "a", 0), (-7, "dropout/1", 2**33 + 5), (2**63 + 9, "ä", 12)):
        got = random.bits(seed, stream, step, tf.constant(positions), (2, 3)).numpy()
        want = [[word(seed, stream, step, p, e) for e in range(6)] for p in positions]
        np.testing.assert_array_equal(got, np.array(want, np.uint32).reshape(4, 2, 3))


def all_kinds(seed: Any, step: Any, positions: tf.Tensor) -> dict[str, tf.Tensor]:
    """A draw of every kind and dtype."""
    at = (seed, "kinds", step, positions, (7, 301))
    result = {
        "bits": random.bits(*at),
        "scalars": random.bits(*at[:4]),
        "mask": random.bernoulli_mask(*at, keep=0.3),
        "integers": random.integers(*at, minval=-5, maxval=12),
    }
    for dtype in FLOATS:
        result[f"unit {dtype.name}"] = random.uniform(*at, dtype=dtype)
        result[f"stretched {dtype.name}"] = random.uniform(*at, maxval=3.7, dtype=dtype)
        result[f"shifted {dtype.name}"] = random.uniform(*at, minval=-0.3, maxval=1.77, dtype=dtype)
        result[f"normal {dtype.name}"] = random.normal(*at, dtype=dtype)
    return result


def test_eager_graph_and_xla_agree_to_the_bit() -> None:
    """Every kind and dtype has the same bytes in eager, graph and XLA, ints and tensors alike."""
    positions = tf.constant([5, 0, 901, 17, 4])
    seed, step = tf.constant(-11, tf.int64), tf.constant(2**35 + 3, tf.int64)
    eager = all_kinds(seed, step, positions)
    others = {
        "ints": all_kinds(-11, 2**35 + 3, tf.cast(positions, tf.int64)),
        "graph": tf.function(all_kinds)(seed, step, positions),
        "xla": tf.function(all_kinds, jit_compile=True)(seed, step, positions),
    }
    for name, other in others.items():
        for kind, value in eager.items():
            assert value.dtype == other[kind].dtype
            assert value.numpy().tobytes() == other[kind].numpy().tobytes(), (name, kind)


def test_a_slice_computed_alone_equals_the_slice_of_the_whole() -> None:
    """An example's numbers depend on its position alone, also with a batch of unknown size."""
    whole = random.normal(2, "slice", 9, tf.range(64), (3, 5)).numpy()
    alone = tf.function(
        lambda p: random.normal(2, "slice", 9, p, (3, 5)),
        input_signature=[tf.TensorSpec([None], tf.int64)],
    )
    np.testing.assert_array_equal(alone(tf.range(40, 56, dtype=tf.int64)).numpy(), whole[40:56])
    np.testing.assert_array_equal(
        alone(tf.constant([63, 0, 7], tf.int64)).numpy(), whole[[63, 0, 7]]
    )
    assert alone(tf.zeros([0], tf.int64)).shape == (0, 3, 5)


def test_seed_stream_and_step_change_every_row() -> None:
    """Changing any one of seed, stream, step or position gives unrelated numbers."""
    base = draw(500, (4,))
    for other in (
        draw(500, (4,), seed=6),
        draw(500, (4,), stream="tesu"),
        draw(500, (4,), step=4),
        draw(501, (4,))[1:],
    ):
        assert np.mean(base == other) < 1e-3
        assert np.abs(correlation_scores(base, other)).max() < 4.8


def test_no_two_of_1e5_positions_and_of_many_steps_share_a_row() -> None:
    """Rows of 1e5 positions differ, as do those of the steps around them."""
    rows = draw(100_000, (3,))
    assert len(np.unique(rows, axis=0)) == 100_000
    steps = np.concatenate([draw(1000, (3,), step=s) for s in range(60)])
    assert len(np.unique(steps, axis=0)) == 60_000


def test_words_are_uniform_and_bits_balanced() -> None:
    """Bytes of the words pass chi-square, and each bit is set half of the time."""
    sample = draw(2048, (512,))
    for shift in (0, 8, 16, 24):
        assert abs(chi_square_score((sample >> np.uint32(shift)) & 255, 256)) < 4.0
    assert abs(chi_square_score(sample >> np.uint32(18), 1 << 14)) < 4.0
    flat = (sample.ravel()[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    scores = (flat.mean(0) - 0.5) * 2.0 * math.sqrt(sample.size)
    assert np.abs(scores).max() < 4.5


def test_bits_of_a_word_are_uncorrelated() -> None:
    """No bit of a word correlates with another bit of the same word."""
    scores = correlation_scores(draw(1 << 17), draw(1 << 17))
    np.fill_diagonal(scores, 0.0)
    assert np.abs(scores).max() < 4.8


def test_neighbours_are_serially_independent() -> None:
    """Neighbouring elements, positions, steps and seeds have no joint structure in any bits."""
    elements = draw(1 << 15, (3,))
    steps = np.stack([draw(1 << 15, step=s) for s in range(3)], 1)
    seeds = np.stack([draw(1 << 15, seed=s) for s in range(3)], 1)
    positions = draw(1 << 16).reshape(-1, 2)
    far = draw(1 << 15, (1025,))[:, [0, 1024]]
    for sample in (elements, steps, seeds, positions, far):
        for other in range(1, sample.shape[1]):
            a, b = sample[:, 0], sample[:, other]
            assert np.abs(correlation_scores(a, b)).max() < 4.8
            for shift in (0, 13, 26):
                high, low = (a >> np.uint32(shift)) & 63, (b >> np.uint32(shift)) & 63
                assert abs(chi_square_score(high * 64 + low, 4096)) < 4.0
            for difference in (a ^ b, a - b):
                for shift in range(0, 25, 6):
                    assert abs(chi_square_score((difference >> np.uint32(shift)) & 255, 256)) < 4.0


def test_avalanche() -> None:
    """Flipping any one bit of seed, step or position flips each output bit half of the time."""
    base_positions = np.arange(4000, dtype=np.int64) * 3
    base = random.bits(40, "flip", 64, tf.constant(base_positions), (2,)).numpy()
    flips = {f"seed {bit}": (40 ^ (1 << bit), 64, base_positions) for bit in (0, 1, 17, 40, 62)}
    flips |= {f"step {bit}": (40, 64 ^ (1 << bit), base_positions) for bit in (0, 5, 20, 35)}
    flips |= {f"position {bit}": (40, 64, base_positions ^ (1 << bit)) for bit in (0, 9, 27)}
    for name, (seed, step, positions) in flips.items():
        other = random.bits(seed, "flip", step, tf.constant(positions), (2,)).numpy()
        changed = ((base ^ other).ravel()[:, None] >> np.arange(32, dtype=np.uint32)) & 1
        scores = (changed.mean(0) - 0.5) * 2.0 * math.sqrt(changed.shape[0])
        assert np.abs(scores).max() < 4.8, name


def test_uniform_is_uniform_on_its_exact_grid() -> None:
    """Uniform floats pass Kolmogorov-Smirnov, keep their bounds, and lie on the stated grid."""
    for dtype, digits in zip(FLOATS, (24, 53, 11, 8), strict=True):
        value = random.uniform(1, "u", 0, tf.range(512), (128,), dtype=dtype)
        assert value.dtype == dtype
        unit = value.numpy().astype(np.float64)
        scaled = unit * 2.0**digits
        np.testing.assert_array_equal(scaled, np.floor(scaled))
        assert unit.min() >= 0.0
        assert unit.max() < 1.0
        assert abs(chi_square_score(np.floor(unit * 256), 256)) < 4.0
    narrow = random.uniform(1, "u", 0, tf.range(512), (128,)).numpy()
    wide = random.uniform(1, "u", 0, tf.range(512), (128,), dtype=tf.float64).numpy()
    assert kolmogorov_smirnov(wide, lambda x: x) < 1.95
    assert abs(wide.mean() - 0.5) < 4.0 / math.sqrt(12 * wide.size)
    assert abs(wide.var() - 1 / 12) < 4.0 / math.sqrt(180 * wide.size)
    assert np.abs(wide - narrow).max() <= 2.0**-24


@pytest.mark.parametrize("bounds", [(-0.3, 1.77), (0.0, 3.7), (1e6, 1e6 + 1.0), (-7.0, -2.5)])
def test_uniform_between_bounds(bounds: tuple[float, float]) -> None:
    """A stretched draw is the unit draw mapped on [minval, maxval), the end never reached."""
    lower, upper = bounds
    for dtype in (tf.float32, tf.float64):
        unit = random.uniform(1, "b", 0, tf.range(300), (99,), dtype=dtype).numpy()
        got = random.uniform(
            1, "b", 0, tf.range(300), (99,), minval=lower, maxval=upper, dtype=dtype
        ).numpy()
        want = lower + (upper - lower) * unit.astype(np.float64)
        tolerance = 2 * max(abs(lower), abs(upper)) * float(np.finfo(got.dtype).eps)
        np.testing.assert_allclose(got.astype(np.float64), want, rtol=0, atol=tolerance)
        assert got.min() >= got.dtype.type(lower)
        assert got.max() < got.dtype.type(upper)


def test_normal_is_normal() -> None:
    """Normal floats pass Kolmogorov-Smirnov and have the moments of the normal distribution."""
    value = random.normal(4, "n", 1, tf.range(1024), (256,)).numpy().astype(np.float64)
    cdf = np.vectorize(statistics.NormalDist().cdf)
    assert kolmogorov_smirnov(value, cdf) < 1.95
    n = value.size
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((value**power).mean() - moment) < 4.0 * math.sqrt(variance / n), power
    tails = [(np.abs(value) > z).mean() for z in (2.0, 3.0, 4.0)]
    for z, share in zip((2.0, 3.0, 4.0), tails, strict=True):
        probability = 2 * (1 - statistics.NormalDist().cdf(z))
        assert abs(share - probability) < 4.0 * math.sqrt(probability / n)


def test_normal_is_the_inverse_of_the_cdf_at_the_words() -> None:
    """Each normal draw is within 2e-6 of the exact quantile of its own bits."""
    words = draw(40_000, (2,))
    got = random.normal(5, "test", 3, tf.range(40_000), (2,), dtype=tf.float64).numpy()
    tail = ((words & 0x7FFFFFFF) | 1).astype(np.float64) * 2.0**-32
    quantile = np.vectorize(statistics.NormalDist().inv_cdf)(tail)
    want = np.where(words >> np.uint32(31) == 1, quantile, -quantile)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)
    rounded = random.normal(5, "test", 3, tf.range(40_000), (2,)).numpy()
    np.testing.assert_array_equal(rounded, got.astype(np.float32))


def test_normal_tail_cells() -> None:
    """The table holds to the exact quantile in every octave, down to a tail of 2**-32."""
    bases, slopes = (
        t.numpy().astype(np.float64) for t in inverse_cdf.table(random._upper_quantile)
    )
    for exponent in range(31):
        for part in (0.0, 0.31, 0.77, 0.999):
            tail = 2.0 ** (exponent - 32) * (1 + part)
            cell, fraction = divmod(int(part * 2**23), 2**16)
            got = bases[exponent * 128 + cell] + slopes[exponent * 128 + cell] * fraction
            assert abs(got + statistics.NormalDist().inv_cdf(tail)) < 2e-6, (exponent, part)


@pytest.mark.parametrize("keep", [0.0, 2.0**-20, 0.3, 0.5, 0.9, 1.0 - 2.0**-32, 1.0])
def test_bernoulli_mask_compares_words_exactly(keep: float) -> None:
    """The mask is the words below keep * 2**32, so 0 and 1 are exact and keep has no bias."""
    got = random.bernoulli_mask(5, "test", 3, tf.range(3000), (70,), keep=keep).numpy()
    np.testing.assert_array_equal(got, draw(3000, (70,)).astype(np.uint64) < round(keep * 2**32))
    assert abs(got.mean() - keep) <= 4.0 * math.sqrt(keep * (1 - keep) / got.size) + 2.0**-32


def test_integers_are_uniform() -> None:
    """Integers cover their range evenly, and the full int32 range is reached."""
    got = random.integers(5, "i", 3, tf.range(3000), (70,), minval=-3, maxval=10).numpy()
    assert (got.dtype, got.min(), got.max()) == (np.int32, -3, 9)
    assert abs(chi_square_score(got + 3, 13)) < 4.0
    full = random.integers(5, "test", 3, tf.range(99), minval=-(2**31), maxval=2**31).numpy()
    np.testing.assert_array_equal(full, draw(99).astype(np.int64) - 2**31)


def test_bad_arguments_say_what_is_wrong() -> None:
    """Each wrong argument raises with the name of the function or argument."""
    positions = tf.range(3)
    with pytest.raises(TypeError, match="stream"):
        random.bits(0, 1, 0, positions)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="seed"):
        random.bits(0.5, "a", 0, positions)
    with pytest.raises(TypeError, match="step"):
        random.bits(0, "a", True, positions)
    with pytest.raises(TypeError, match="positions"):
        random.bits(0, "a", 0, tf.constant([0.5]))
    with pytest.raises(ValueError, match=r"positions of shape \[B\]"):
        random.bits(0, "a", 0, tf.constant(2))
    with pytest.raises(ValueError, match="scalar"):
        random.bits(tf.constant([1, 2]), "a", 0, positions)
    with pytest.raises(ValueError, match="static shape"):
        random.bits(0, "a", 0, positions, (None,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2\\*\\*31"):
        random.bits(0, "a", 0, positions, (-1,))
    with pytest.raises(ValueError, match="minval < maxval"):
        random.uniform(0, "a", 0, positions, minval=1.0, maxval=1.0)
    with pytest.raises(ValueError, match="dtype"):
        random.normal(0, "a", 0, positions, dtype=tf.int32)
    with pytest.raises(ValueError, match="keep"):
        random.bernoulli_mask(0, "a", 0, positions, keep=1.5)
    with pytest.raises(ValueError, match="minval < maxval"):
        random.integers(0, "a", 0, positions, maxval=0)
