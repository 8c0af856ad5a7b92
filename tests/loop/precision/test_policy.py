"""Mixed precision: what is cast, and the dynamic loss scale against Keras's."""

import json
import logging
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import kernels
import loop
from kernels import target
from loop import distribute, layers, optimizers
from loop.feeds import Arrays
from loop.precision.loss_scale import LossScale
from loop.precision.policy import Precision
from tests.loop import steps

_ROOT = pathlib.Path(__file__).parents[3]


def test_a_precision_casts_floating_inputs_alone():
    """Floats become the compute dtype, integers stay; with `inputs` the other floats stay too."""
    batch = {
        "image": tf.constant([[0.1, 2.0]]),
        "target": tf.constant([0.3], tf.float64),
        "label": tf.constant([3]),
        "partner": {"image": tf.constant([[1.5]])},
    }
    cast = Precision("mixed_bfloat16").cast(batch)
    assert cast["image"].dtype == cast["target"].dtype == tf.bfloat16
    assert cast["partner"]["image"].dtype == tf.bfloat16
    assert cast["label"].dtype == tf.int32
    some = Precision("mixed_float16", inputs=("image",)).cast(batch)
    assert some["image"].dtype == tf.float16
    assert some["target"].dtype == tf.float64
    with pytest.raises(ValueError, match="no 'images' to cast"):
        Precision("mixed_float16", inputs=("images",)).cast(batch)
    with pytest.raises(ValueError, match=r"name must be one of float32, .*got 'half'"):
        Precision("half")


def _dense_step(precision, **options):
    dense = layers.Dense(5, 3, name="dense", seed=4)
    step = loop.GradientStep(
        lambda batch: kernels.softmax_cross_entropy(batch["label"], dense(batch["x"])),
        dense.trainable_variables,
        optimizers.SGD(0.5),
        precision=precision,
        **options,
    )
    return dense, step


def _labelled(size=8):
    data = steps.arrays(size, dtype=np.float32)
    return {"x": tf.constant(data["x"]), "label": tf.constant(np.arange(size) % 3)}


@pytest.mark.parametrize("name", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_mixed_step_is_that_of_kerass_policy(name):
    """One SGD update through Keras's Dense of the same policy gives the same loss and weights."""
    dense, step = _dense_step(name)
    twin = keras.layers.Dense(3, dtype=name)
    twin.build((None, 5))
    twin.set_weights([dense.kernel.numpy(), dense.bias.numpy()])
    batch = _labelled()
    with tf.GradientTape() as tape:
        logits = tf.cast(twin(batch["x"]), tf.float32)
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
        )
        # 2**15 keeps float16's gradients what they are in exact arithmetic, as our scale does.
        scaled = loss * 2.0**15
    variables = [weight.value for weight in twin.trainable_weights]
    gradients = tape.gradient(scaled, variables)
    with steps.inside(8):
        row = step(batch)
    assert row["loss"].dtype == tf.float32
    np.testing.assert_allclose(row["loss"], loss, rtol=1e-6)
    # A rounding of the half type apart: the matmul's sums may come in another order.
    tolerance = {"float32": 1e-6, "mixed_bfloat16": 2e-3, "mixed_float16": 3e-4}[name]
    for mine, theirs, gradient in zip(
        (dense.kernel, dense.bias), variables, gradients, strict=True
    ):
        assert mine.dtype == tf.float32
        expected = theirs.numpy() - 0.5 * gradient.numpy() / 2.0**15
        np.testing.assert_allclose(mine, expected, atol=tolerance)


def test_the_scale_saves_gradients_that_underflow():
    """Gradients of 1e-8, zero in float16, come through a scale of 2**15 and not through 1."""
    found = {}
    for initial in (1.0, 2.0**15):
        weight = tf.Variable([0.5, -1.0], name="weight")
        step = loop.GradientStep(
            lambda batch, weight=weight: tf.reduce_sum(
                tf.cast(batch["x"] * tf.cast(weight, tf.float16), tf.float32), -1
            ),
            [weight],
            optimizers.SGD(1.0),
            precision="mixed_float16",
            loss_scale=LossScale(initial=initial),
        )
        x = np.array([[1e-4, 2e-4], [3e-4, 4e-4]], np.float32)
        # Two examples of a batch of 20,000, whose mean makes the gradient small.
        with steps.inside(20_000, positions=np.arange(2)):
            row = step({"x": tf.constant(x)})
        found[initial] = row["gradient_norm"].numpy()
    expected = np.hypot(4e-4, 6e-4) / 20_000
    np.testing.assert_allclose(found[2.0**15], expected, rtol=2e-3)
    assert found[1.0] == 0.0


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_the_scale_moves_as_kerass(mode):
    """Over 60 steps, a third of them overflowing, scale and count are LossScaleOptimizer's."""
    ours = LossScale(initial=2.0**12, growth_steps=3)
    variable = keras.Variable(np.float32(1.0))
    theirs = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.0), initial_scale=2.0**12, dynamic_growth_steps=3
    )
    theirs.build([variable])

    @tf.function(jit_compile=mode == "xla")
    def update(finite):
        with target.tracing_for(mode):
            return ours.update(ours.read(), loss_finite=tf.constant(True), gradients_finite=finite)

    finite = np.random.default_rng(3).random(60) > 0.3
    seen = set()
    for good in finite:
        assert bool(update(tf.constant(good))) == (not good)
        theirs.apply([tf.constant(1.0 if good else np.inf)], [variable])
        assert ours.read().numpy() == theirs.dynamic_scale.numpy()
        assert ours.state["good_steps"].numpy() == theirs.step_counter.numpy()
        seen.add(float(ours.read().numpy()))
    assert len(seen) > 4


def test_the_scale_is_left_alone_where_it_is_not_at_fault():
    """A loss that is not finite, or gradients at a scale of 1, are faults of the step."""
    scale = LossScale(initial=2.0, growth_steps=2)

    def overflows(loss_finite, gradients_finite):
        return scale.update(
            scale.read(),
            loss_finite=tf.constant(loss_finite),
            gradients_finite=tf.constant(gradients_finite),
        )

    assert not overflows(True, True)
    assert not overflows(False, False)
    assert (scale.read().numpy(), scale.state["good_steps"].numpy()) == (2.0, 1)
    assert overflows(True, False)
    assert not overflows(True, False)
    assert (scale.read().numpy(), scale.state["good_steps"].numpy()) == (1.0, 0)
    for bad in (0.5, 3.0, float("inf"), float("nan"), -2.0):
        with pytest.raises(ValueError, match="initial must be a power of two"):
            LossScale(initial=bad)
    with pytest.raises(ValueError, match="growth_steps must be at least 1, got 0"):
        LossScale(growth_steps=0)


def _spiked_trainer(slopes, *, mode, replicas=None, directory=None, initial=2.0**13, gain=1.0):
    """A step with a finite loss, whose scaled gradient overflows where a slope is large."""
    replicas = replicas or distribute.single()
    with replicas.scope():
        weight = tf.Variable(0.001, name="weight")
        optimizer = optimizers.Adam(0.01)
        step = loop.GradientStep(
            lambda batch: gain * tf.cast(batch["slope"] * tf.cast(weight, tf.float16), tf.float32),
            [weight],
            optimizer,
            precision="mixed_float16",
            loss_scale=LossScale(initial=initial, growth_steps=4),
        )
    rows = []
    feed = Arrays({"slope": np.asarray(slopes, np.float32)}, batch_size=4, seed=0, shuffle=False)
    trainer = loop.Trainer(
        step=step,
        feed=feed,
        state={"weight": weight, "optimizer": optimizer},
        compile=mode,
        steps_per_call=16,
        replicas=replicas,
        directory=directory,
        writers=[rows.extend],
    )
    return trainer, rows


def _slopes(steps_with_spike, count=12):
    """Slopes about 1; those of 100 overflow float16 at scales from 2**12 on, 100 * 2**12 / 4."""
    slopes = np.random.default_rng(1).uniform(0.5, 1.5, [count, 4])
    for step in steps_with_spike:
        slopes[step, 3] = 100.0
    return slopes.reshape(-1)


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_an_overflow_is_skipped_and_is_no_fault(mode):
    """With on_nonfinite=stop a run goes on over steps whose scaled gradients overflow."""
    trainer, rows = _spiked_trainer(_slopes([1, 2, 7]), mode=mode)
    trainer.train(until=12)
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [int(row["step"]) - 1 for row in rows if not row["finite"]] == [1, 2, 7]
    assert [int(row["step"]) - 1 for row in rows if row["overflow"]] == [1, 2, 7]
    exponents = np.log2([row["loss_scale"] for row in rows])
    np.testing.assert_array_equal(exponents, [13, 13, 12, 11, 11, 11, 11, 12, 11, 11, 11, 11])
    assert trainer.state["step/loss_scale"].numpy() == 2.0**12
    assert trainer.state["optimizer/update_count"].numpy() == 9
    assert trainer.traces == 1


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_a_fault_that_no_scale_mends_still_stops_the_run(mode):
    """A NaN stops at its step at once; an endless overflow when the scale can shrink no more."""
    slopes = _slopes([])
    slopes[4 * 5] = np.nan
    trainer, rows = _spiked_trainer(slopes, mode=mode)
    with pytest.raises(loop.NonFiniteError) as raised:
        trainer.train(until=12)
    assert raised.value.step == 5
    assert rows[-1]["loss_scale"] == trainer.state["step/loss_scale"].numpy()
    trainer, rows = _spiked_trainer(np.full(48, 65000.0), mode=mode, initial=4.0, gain=8.0)
    with pytest.raises(loop.NonFiniteError) as raised:
        trainer.train(until=12)
    assert raised.value.step == 2
    assert [row["loss_scale"] for row in rows] == [4, 2, 1]
    assert [row["overflow"] for row in rows] == [1, 1, 0]
    assert trainer.state["weight"].numpy() == np.float32(0.001)


def test_resume_is_exact_with_the_scale(tmp_path):
    """12 steps, and 5 + 7 with new objects between, end in one state, the scale included."""
    slopes = _slopes([1, 2, 7])
    whole, _ = _spiked_trainer(slopes, mode="graph", directory=tmp_path / "whole")
    with whole:
        whole.train(until=12)
    for until in (5, 12):
        part, rows = _spiked_trainer(slopes, mode="graph", directory=tmp_path / "cut")
        with part:
            part.train(until=until)
    assert rows[0]["step"] == 6
    assert {"step/loss_scale", "step/good_steps"} <= part.state.keys()
    assert steps.same(steps.values(whole.state), steps.values(part.state))


def test_what_does_not_fit_is_refused():
    """Variables of another dtype, and a loss scale without float16, are errors when made."""
    dense = layers.Dense(5, 3, name="dense", seed=4)

    def make(**options):
        loop.GradientStep(lambda b: b, dense.trainable_variables, optimizers.SGD(), **options)

    with pytest.raises(ValueError, match="expected variables of float64, found 'dense/kernel' of"):
        make(precision="float64")
    with pytest.raises(ValueError, match="loss_scale is for precision='mixed_float16', got"):
        make(precision="mixed_bfloat16", loss_scale=LossScale())


def test_float16_on_a_cpu_warns_once(caplog):
    """One line when the step is made; none for bfloat16."""
    caplog.set_level(logging.WARNING, logger="loop")
    _dense_step("mixed_bfloat16")
    assert not caplog.records
    _, step = _dense_step("mixed_float16")
    for number in range(2):
        with steps.inside(8, global_step=number):
            step(_labelled())
    assert [record.message for record in caplog.records] == [
        "mixed_float16 on a CPU is for tests: it computes slower than float32"
    ]


@pytest.mark.parametrize("name", ["mixed_bfloat16", "mixed_float16"])
def test_a_network_learns_in_half_precision(name):
    """Convolution, BatchNorm, dropout and accumulation in a half type follow float32."""
    rng = np.random.default_rng(0)
    images = rng.normal(0.3, 1.0, [32, 6, 6, 2]).astype(np.float32)
    labels = (images.mean((1, 2, 3)) > 0.3).astype(np.int32)
    losses = {}
    for precision in ("float32", name):
        conv = layers.Conv2D(2, 4, 3, name="conv", seed=1, bias=False)
        norm = layers.BatchNorm(4, name="norm", relu=True)
        dense = layers.Dense(4 * 36, 2, name="dense", seed=1)
        dropout = layers.Dropout(0.1, name="dropout")

        def loss(batch, conv=conv, norm=norm, dense=dense, dropout=dropout):
            x = norm(conv(batch["image"]), training=True)
            x = dropout(tf.reshape(x, [-1, 4 * 36]), training=True)
            return kernels.softmax_cross_entropy(batch["label"], dense(x))

        variables = [v for m in (conv, norm, dense) for v in m.trainable_variables]
        optimizer = optimizers.Adam(0.01)
        step = loop.GradientStep(loss, variables, optimizer, precision=precision, accumulate=2)
        rows = []
        trainer = loop.Trainer(
            step=step,
            feed=Arrays({"image": images, "label": labels}, batch_size=16, seed=0),
            state={"conv": conv, "norm": norm, "dense": dense, "optimizer": optimizer},
            compile="graph",
            writers=[rows.extend],
        )
        trainer.train(until=30)
        assert all(v.dtype == tf.float32 for v in variables)
        losses[precision] = np.array([row["loss"] for row in rows])
    np.testing.assert_allclose(losses[name][:5], losses["float32"][:5], rtol=0.1)
    assert losses[name][-5:].mean() < 0.6 * losses[name][:5].mean()


def _replicas_main():
    """Both modes on two virtual CPUs: the spike is on the second replica alone."""
    replicas = distribute.mirrored(virtual_devices=2)
    found = {}
    for mode in ("graph", "xla"):
        trainer, rows = _spiked_trainer(_slopes([1, 2, 7]), mode=mode, replicas=replicas)
        trainer.train(until=12)
        found[mode] = {
            "copies": {
                name: [float(copy.numpy()) for copy in variable.values]
                for name, variable in trainer.state.items()
            },
            "finite": [row["finite"] for row in rows],
        }
    print(json.dumps(found))


def test_replicas_decide_alike():
    """An Inf on replica 1 alone is skipped on both, and the run is that of one replica."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.loop.precision.test_policy"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    trainer, rows = _spiked_trainer(_slopes([1, 2, 7]), mode="graph")
    trainer.train(until=12)
    for mode in ("graph", "xla"):
        assert found[mode]["finite"] == [row["finite"] for row in rows]
        assert 0 in found[mode]["finite"]
        for name, variable in trainer.state.items():
            first, second = found[mode]["copies"][name]
            assert first == second, name
            np.testing.assert_allclose(first, variable.numpy(), rtol=2e-3, err_msg=name)


if __name__ == "__main__":
    _replicas_main()
