"""Layers: their variables, and that the kernel behind each gets the right things."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kernels
from kernels import target
from loop import layers
from tests.loop import steps


def _normal(shape, seed=0):
    return np.random.default_rng(seed).normal(0.8, 1.5, shape)


def test_dense_is_a_product_and_a_bias():
    """A product over the last axis, in x's dtype whatever the variables'."""
    dense = layers.Dense(4, 3, name="d", seed=0)
    dense.bias.assign([0.5, -1, 2])
    x = _normal([2, 5, 4])
    y = dense(tf.constant(x))
    assert y.dtype == tf.float64
    truth = x @ dense.kernel.numpy().astype(np.float64) + dense.bias.numpy()
    np.testing.assert_allclose(y, truth, rtol=1e-12)
    assert dense(tf.constant(x, tf.float32)).dtype == tf.float32
    assert layers.Dense(4, 3, name="e", seed=0, bias=False).bias is None


def test_conv2d_is_tensorflows_convolution():
    """Strides, padding and bias reach the kernel."""
    conv = layers.Conv2D(3, 4, 3, name="c", seed=0, strides=2, padding="VALID", dtype=tf.float64)
    conv.bias.assign(_normal([4], 1))
    x = tf.constant(_normal([2, 9, 8, 3]))
    truth = tf.nn.conv2d(x, conv.kernel, 2, "VALID") + conv.bias
    np.testing.assert_allclose(conv(x), truth, rtol=1e-10, atol=1e-12)


def test_initial_values_follow_from_seed_and_name():
    """The same seed and name give the same kernel, another of either another one."""

    def make(name, seed):
        return layers.Dense(64, 32, name=name, seed=seed).kernel.numpy().ravel()

    assert np.array_equal(make("a", 1), make("a", 1))
    for other in (make("b", 1), make("a", 2)):
        assert abs(np.corrcoef(make("a", 1), other)[0, 1]) < 4 / np.sqrt(64 * 32)


@pytest.mark.parametrize(
    ("kernel", "variance"),
    [
        (layers.Dense(200, 300, name="d", seed=5).kernel, 2 / 200),
        (layers.Dense(200, 300, name="d", seed=5, gain=1.0).kernel, 1 / 200),
        (layers.Conv2D(40, 160, 3, name="c", seed=5).kernel, 2 / (9 * 40)),
        (layers.Embedding(500, 100, name="e", seed=5).table, 0.02**2),
    ],
)
def test_initial_values_have_the_documented_variance(kernel, variance):
    """Mean 0 and He et al.'s variance, within four standard errors of some 50,000 draws."""
    drawn = kernel.numpy().astype(np.float64)
    assert abs(drawn.mean()) < 4 * np.sqrt(variance / drawn.size)
    assert abs(drawn.var() / variance - 1) < 4 * np.sqrt(2 / drawn.size)


def test_batch_norm_normalises_by_the_batch_and_holds_its_statistics_back():
    """Training uses the batch's moments and records them; the variables wait for the step."""
    norm = layers.BatchNorm(3, name="n", momentum=0.9, epsilon=1e-2, dtype=tf.float64)
    norm.scale.assign([1.5, -0.5, 2])
    norm.offset.assign([0.1, 0.2, -0.3])
    x = _normal([6, 2, 3])
    with steps.inside(6) as context:
        y = norm(tf.constant(x), training=True)
    mean, variance = x.mean((0, 1)), x.var((0, 1))
    truth = (x - mean) / np.sqrt(variance + 1e-2) * norm.scale.numpy() + norm.offset.numpy()
    np.testing.assert_allclose(y, truth, rtol=1e-8)
    recorded_mean, recorded_variance = context.moving_averages
    np.testing.assert_allclose(recorded_mean.value, mean, rtol=1e-10)
    np.testing.assert_allclose(recorded_variance.value, variance, rtol=1e-10)
    assert recorded_mean.variable is norm.moving_mean
    assert recorded_variance.variable is norm.moving_variance
    assert {float(average.momentum) for average in context.moving_averages} == {0.9}
    assert float(recorded_mean.weight) == 12
    assert norm.moving_mean.numpy().tolist() == [0, 0, 0]


def test_batch_norm_in_inference_uses_its_statistics():
    """Inference needs no step, and normalises by the moving statistics."""
    norm = layers.BatchNorm(2, name="n", relu=True, dtype=tf.float64)
    norm.moving_mean.assign([0.4, -1])
    norm.moving_variance.assign([2.0, 0.25])
    x = _normal([7, 2])
    truth = (x - [0.4, -1]) / np.sqrt(np.array([2, 0.25]) + 1e-3)
    np.testing.assert_allclose(norm(tf.constant(x), training=False), truth.clip(0), rtol=1e-8)


def test_batch_norm_counts_no_padding():
    """A masked example enters neither moments nor their weight."""
    norm = layers.BatchNorm(3, name="n", bessel=True, dtype=tf.float64)
    x = _normal([5, 3])
    mask = [True, False, True, True, False]
    with steps.inside(10, positions=[3, 0, 5, 6, 0], mask=mask) as context:
        norm(tf.constant(x), training=True)
    mean, variance = context.moving_averages
    np.testing.assert_allclose(mean.value, x[mask].mean(0), rtol=1e-10)
    np.testing.assert_allclose(variance.value, x[mask].var(0, ddof=1), rtol=1e-10)
    assert float(mean.weight) == 3


def test_dropout_of_a_slice_is_the_slice_of_dropout():
    """What is dropped depends on seed, name, step and position in the global batch alone."""
    x = tf.constant(_normal([12, 40]))
    dropout = layers.Dropout(0.3, name="a")

    def dropped(layer=dropout, rows=slice(None), **options):
        positions = np.arange(12)[rows]
        with steps.inside(12, positions=positions, **options):
            return layer(x[rows], training=True).numpy()

    whole = dropped()
    assert np.array_equal(dropped(), whole)
    assert np.array_equal(dropped(rows=slice(5, 9)), whole[5:9])
    for other in (
        dropped(global_step=1),
        dropped(seed=4),
        dropped(layers.Dropout(0.3, name="b")),
    ):
        assert 0.3 < np.mean((other == 0) != (whole == 0)) < 0.55  # independent: 2 * 0.3 * 0.7


def test_dropout_drops_its_share_and_scales_the_rest():
    """Over 40,000 elements the share is the rate, and what is kept is divided by 1 - rate."""
    x = _normal([100, 400])
    with steps.inside(100):
        y = layers.Dropout(0.25, name="a")(tf.constant(x), training=True).numpy()
    kept = y != 0
    assert abs(kept.mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / x.size)
    np.testing.assert_allclose(y[kept], x[kept] / 0.75, rtol=1e-12)


def test_dropout_does_nothing_at_inference_or_at_rate_zero():
    """Neither needs a step."""
    x = tf.constant(_normal([3, 4]))
    assert layers.Dropout(0.5, name="a")(x, training=False) is x
    assert layers.Dropout(0.0, name="a")(x, training=True) is x


def test_embedding_looks_rows_up_with_a_sparse_gradient():
    """Any shape of ids gives rows of the table; the gradient holds the used rows alone."""
    embedding = layers.Embedding(7, 3, name="e", seed=0)
    ids = tf.constant([[1, 6], [1, 0]])
    with tf.GradientTape() as tape:
        rows = embedding(ids)
    assert np.array_equal(rows, embedding.table.numpy()[ids.numpy()])
    gradient = tape.gradient(rows, embedding.table)
    assert isinstance(gradient, tf.IndexedSlices)
    assert gradient.indices.numpy().tolist() == [1, 6, 1, 0]


@pytest.mark.parametrize(
    "layer", [layers.BatchNorm(2, name="x"), layers.Dropout(0.5, name="x")], ids=["norm", "dropout"]
)
def test_training_outside_a_step_is_refused(layer):
    """Without a step there is neither a seed nor a place to keep statistics."""
    with pytest.raises(RuntimeError, match=f"{type(layer).__name__} 'x': called outside"):
        layer(tf.zeros([3, 2]), training=True)


def test_bad_sizes_and_rates_are_refused_by_name():
    """The message names layer, argument and value."""
    for make, message in [
        (
            lambda: layers.Dense(0, 2, name="d", seed=0),
            "Dense 'd': inputs must be at least 1, got 0",
        ),
        (lambda: layers.Conv2D(1, 2, 3, name="c", seed=0, strides=0), "Conv2D 'c': strides must"),
        (lambda: layers.Embedding(3, -1, name="e", seed=0), "Embedding 'e': width must"),
        (
            lambda: layers.BatchNorm(2, name="n", momentum=1.5),
            r"momentum must be in \[0, 1\], got 1.5",
        ),
        (lambda: layers.Dropout(1.0, name="p"), r"Dropout 'p': rate must be in \[0, 1\), got 1.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


def test_eager_graph_and_xla_agree():
    """One net of all layers, traced for each compiler, gives the same outputs and gradients."""
    embedding = layers.Embedding(9, 5, name="e", seed=2, deviation=1.0, dtype=tf.float64)
    net = steps.Net(dropout=0.4)
    ids = tf.constant([3, 1, 8, 3, 0, 2])

    def outputs(compiler):
        with target.tracing_for(compiler), steps.inside(6), tf.GradientTape() as tape:
            y = net(embedding(ids), training=True)
        variables = [embedding.table, *net.trainable_variables]
        return [y, *(tf.convert_to_tensor(g) for g in tape.gradient(y, variables))]

    truth = outputs("eager")
    assert all(np.abs(tensor).max() > 0 for tensor in truth)
    for compiler in ("graph", "xla"):
        function = tf.function(
            lambda c=compiler: outputs(c), jit_compile=compiler == "xla" or None, autograph=False
        )
        for found, true in zip(function(), truth, strict=True):
            np.testing.assert_allclose(found, true, rtol=1e-9, atol=1e-12)


def test_layer_norm_is_keras_layer_normalization():
    """Over the last axis, with its own scale and offset, as Keras computes it."""
    norm = layers.LayerNorm(4, name="n", epsilon=1e-3, dtype=tf.float64)
    norm.scale.assign([1.5, -0.5, 2, 1])
    norm.offset.assign([0.1, 0.2, -0.3, 0])
    own = keras.layers.LayerNormalization(epsilon=1e-3, dtype="float64")
    x = tf.constant(_normal([3, 2, 4]))
    own.build(x.shape)
    own.set_weights([norm.scale.numpy(), norm.offset.numpy()])
    np.testing.assert_allclose(norm(x), own(x), rtol=1e-6)


def test_synchronized_moments_of_one_replica_are_those_of_several():
    """In graph mode one replica's moments are to the bit what a sum over replicas gives."""
    x = tf.constant(np.random.default_rng(6).normal(3.0, 1.7, [8, 7, 5, 4]), tf.float32)
    norm = layers.BatchNorm(4, name="n", momentum=0.0, synchronized=True)

    @tf.function(autograph=False)
    def moments(x):
        with target.tracing_for("graph"), steps.inside(8) as context:
            norm(x, training=True)
            alone = [average.value for average in context.moving_averages]
            _, summed = kernels.batch_norm_training(x, None, None, all_reduce_sum=lambda v: v)
        return alone, [summed.mean, summed.variance]

    for alone, summed in zip(*moments(x), strict=True):
        np.testing.assert_array_equal(alone, summed)
