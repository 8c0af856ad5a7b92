"""Clipping against NumPy in float64 and TensorFlow's own functions, on every target."""

import math

import numpy as np
import pytest
import tensorflow as tf

from kernels import clipping, target

_CLIPS = {
    "value": clipping.ClipByValue(0.8),
    "norm": clipping.ClipByNorm(2.0),
    "norm, far": clipping.ClipByNorm(1e6),
    "global": clipping.ClipByGlobalNorm(3.0),
    "global, far": clipping.ClipByGlobalNorm(1e6),
    "adaptive": clipping.AdaptiveClip(0.3, 0.05),
}
_SHAPES = {"matrix": (4, 6), "kernel": (3, 2, 5, 4), "bias": (7,), "scalar": ()}
_INDICES = np.array([5, 1, 5, 5, 0, 1])


def _inputs(seed=0, dtype=np.float64):
    """Variables, dense gradients, and one gradient of rows with duplicates [9, 3]."""
    rng = np.random.default_rng(seed)
    draw = lambda shape: rng.normal(0.4, 1.3, shape).astype(dtype)  # noqa: E731
    variables = [draw(shape) for shape in _SHAPES.values()] + [draw((9, 3))]
    gradients = [draw(shape) for shape in _SHAPES.values()]
    return variables, gradients, draw((6, 3))


def _densify(rows, indices=_INDICES):
    dense = np.zeros((9, 3))
    np.add.at(dense, indices, rows.astype(np.float64))
    return dense


def _unit_norm(x):
    if x.ndim <= 1:
        return np.sqrt(np.sum(x**2, keepdims=True))
    axes = (0,) if x.ndim <= 3 else tuple(range(x.ndim - 1))
    return np.sqrt(np.sum(x**2, axis=axes, keepdims=True))


def _truth(clip, gradients, variables):
    """NumPy's clipped gradients, from the definitions; all dense."""
    norm = math.sqrt(sum(np.sum(g**2) for g in gradients))
    if isinstance(clip, clipping.ClipByValue):
        out = [np.clip(g, -clip.limit, clip.limit) for g in gradients]
    elif isinstance(clip, clipping.ClipByNorm):
        norms = [math.sqrt(np.sum(g**2)) for g in gradients]
        out = [g * min(1, clip.max_norm / own) for g, own in zip(gradients, norms, strict=True)]
    elif isinstance(clip, clipping.ClipByGlobalNorm):
        out = [g * min(1, clip.max_norm / norm) for g in gradients]
    else:
        out = []
        for g, w in zip(gradients, variables, strict=True):
            limit = np.maximum(_unit_norm(w), clip.epsilon) * clip.ratio
            out.append(g * np.minimum(1, limit / _unit_norm(g)))
    changed = any(np.any(a != b) for a, b in zip(out, gradients, strict=True))
    return out, norm, changed


def _dense(gradient):
    if isinstance(gradient, tf.IndexedSlices):
        rows = tf.cast(gradient.values, tf.float64)
        return tf.math.unsorted_segment_sum(rows, gradient.indices, 9)
    return tf.cast(gradient, tf.float64)


def _all_clips(compiler, dtype):
    """Every clip, in one compiled function: name -> (dense results, norm, clipped)."""
    variables, gradients, rows = _inputs()

    def everything(variables, gradients, rows, indices):
        with target.tracing_for(compiler):
            slices = tf.IndexedSlices(rows, indices)
            results = {}
            for name, clip in _CLIPS.items():
                got = clip([None, *gradients, slices], [variables[0], *variables])
                assert got.gradients[0] is None
                assert isinstance(got.gradients[-1], tf.IndexedSlices)
                assert all(g.dtype == dtype for g in got.gradients[1:])
                results[name] = ([_dense(g) for g in got.gradients[1:]], got.norm, got.clipped)
            return results

    cast = lambda x: tf.cast(x, dtype)  # noqa: E731
    arguments = ([cast(v) for v in variables], [cast(g) for g in gradients], cast(rows))
    if compiler != "eager":
        everything = tf.function(everything, jit_compile=compiler == "xla", autograph=False)
    return everything(*arguments, tf.constant(_INDICES)), arguments


@pytest.mark.parametrize("compiler", ["eager", "graph", "xla"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(tf.float64, 1e-13), (tf.float32, 2e-6), (tf.bfloat16, 0.01), (tf.float16, 2e-3)],
)
def test_clips_equal_their_definitions(compiler, dtype, tolerance):
    """Results, norm and flag are NumPy's on every target and dtype, duplicates summed first."""
    results, (variables, gradients, rows) = _all_clips(compiler, dtype)
    to_numpy = lambda x: tf.cast(x, tf.float64).numpy()  # noqa: E731
    dense = [to_numpy(g) for g in gradients] + [_densify(to_numpy(rows))]
    weights = [to_numpy(v) for v in variables]
    for name, (got, norm, clipped) in results.items():
        expected, expected_norm, changed = _truth(_CLIPS[name], dense, weights)
        assert norm.dtype == (tf.float64 if dtype == tf.float64 else tf.float32)
        np.testing.assert_allclose(norm, expected_norm, rtol=min(tolerance, 2e-3), err_msg=name)
        assert bool(clipped) == changed, name
        for mine, theirs in zip(got, expected, strict=True):
            # Sums of half rows are rounded to half, relative to the rows rather than to the sum.
            np.testing.assert_allclose(
                mine, theirs, rtol=tolerance, atol=4 * tolerance, err_msg=name
            )


def test_below_the_bound_nothing_moves():
    """A clip that does not act returns the very bits it was given."""
    _, gradients, _ = _inputs(dtype=np.float32)
    tensors = [tf.constant(g) for g in gradients]
    for clip in (
        clipping.ClipByGlobalNorm(1e6),
        clipping.ClipByNorm(1e6),
        clipping.ClipByValue(50),
    ):
        got = clip(tensors, tensors)
        assert not got.clipped
        for mine, given in zip(got.gradients, gradients, strict=True):
            np.testing.assert_array_equal(mine, given)


def test_equal_to_tensorflow():
    """The dense results are those of tf.clip_by_global_norm and tf.clip_by_norm."""
    _, gradients, _ = _inputs(dtype=np.float32)
    tensors = [tf.constant(g) for g in gradients]
    theirs, norm = tf.clip_by_global_norm(tensors, 1.7)
    ours = clipping.ClipByGlobalNorm(1.7)(tensors, tensors)
    np.testing.assert_allclose(ours.norm, norm, rtol=1e-6)
    for a, b in zip(ours.gradients, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    for a, g in zip(clipping.ClipByNorm(0.9)(tensors, tensors).gradients, tensors, strict=True):
        np.testing.assert_allclose(a, tf.clip_by_norm(g, 0.9), rtol=1e-6)


@pytest.mark.parametrize("fault", [np.nan, np.inf])
@pytest.mark.parametrize("clip", _CLIPS.values(), ids=_CLIPS)
def test_a_non_finite_norm_is_reported_and_not_spread(clip, fault):
    """One bad element shows in the norm; every gradient comes back as it was."""
    variables, gradients, rows = _inputs(dtype=np.float32)
    gradients[1][0, 1, 2, 3] = fault
    tensors = [tf.constant(g) for g in gradients] + [tf.IndexedSlices(tf.constant(rows), _INDICES)]
    got = clip(tensors, [tf.constant(v) for v in variables])
    assert not np.isfinite(got.norm)
    assert not got.clipped
    for mine, given in zip(got.gradients[:-1], gradients, strict=True):
        np.testing.assert_array_equal(mine, given)
    np.testing.assert_allclose(_dense(got.gradients[-1]), _densify(rows), rtol=1e-6)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64, tf.bfloat16])
def test_sum_by_slabs_is_the_sum(dtype):
    """XLA's form for large gradients counts every element once, whatever the remainder is."""
    rng = np.random.default_rng(3)
    values = tf.cast(rng.normal(0.5, 2, (2**14 + 37, 1)), dtype)
    truth = math.sqrt(np.sum(np.square(tf.cast(values, tf.float64).numpy())))

    @tf.function(jit_compile=True, autograph=False)
    def norm(gradient):
        with target.tracing_for("xla", "cpu"):
            return clipping.global_norm([gradient])

    assert float(norm(values)) == pytest.approx(truth, rel=1e-12 if dtype == tf.float64 else 1e-6)


def test_long_sums_keep_their_digits():
    """The float32 norm of four million elements is right to 1e-5 on graph and XLA."""
    x = np.random.default_rng(3).normal(0.1, 1, 2**22).astype(np.float32)
    truth = math.sqrt(np.sum(x.astype(np.float64) ** 2))
    for jit in (False, True):
        norm = tf.function(lambda g: clipping.global_norm([g]), jit_compile=jit)(x)
        np.testing.assert_allclose(norm, truth, rtol=1e-5)


@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf, "1", None, True])
@pytest.mark.parametrize(
    "make",
    [
        clipping.ClipByValue,
        clipping.ClipByNorm,
        clipping.ClipByGlobalNorm,
        clipping.AdaptiveClip,
        lambda bad: clipping.AdaptiveClip(0.1, bad),
    ],
)
def test_a_bad_bound_raises_where_it_is_given(make, bad):
    """A bound that is no positive finite number is refused by the constructor."""
    with pytest.raises(ValueError, match="must be a positive finite number, got"):
        make(bad)


def test_wrong_gradients_are_refused():
    """All None, integers, and a count that differs from the variables' raise."""
    with pytest.raises(ValueError, match="all 2 gradients are None"):
        clipping.global_norm([None, None])
    with pytest.raises(TypeError, match="float dtype"):
        clipping.global_norm([tf.constant([1, 2])])
    with pytest.raises(ValueError, match="got 1 gradients for 2 variables"):
        clipping.AdaptiveClip()([tf.constant([1.0])], [tf.constant([1.0]), tf.constant([2.0])])
