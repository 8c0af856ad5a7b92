"""Keras models, layers, losses and optimizers in the compiled loop as they are."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import loop
from loop import optimizers
from loop.feeds import Arrays
from loop.keras import adapter
from tests.loop import steps

_UNTIL = 24


def _trainer(mode, *, own_optimizer=False, nested=False, seed=5, data=None, **options):
    keras.utils.set_random_seed(1)
    keras.backend.clear_session()  # Keras counts its names up within a process
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(6, use_bias=False),
            keras.layers.BatchNormalization(momentum=0.8),
            keras.layers.GaussianNoise(0.1),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(1),
        ],
        name="net",
    )
    if own_optimizer:
        optimizer = optimizers.AdamW(0.01, weight_decay=0.1)
    else:
        optimizer = adapter.KerasOptimizer(keras.optimizers.AdamW(0.01, weight_decay=0.1))
    losses = keras.losses.MeanSquaredError(reduction=None)
    step = loop.GradientStep(
        lambda batch: losses(batch["y"][:, None], model(batch["x"], training=True)),
        model.trainable_variables,
        optimizer,
    )
    return loop.Trainer(
        step=step,
        feed=Arrays(data or steps.arrays(dtype=np.float32), batch_size=8, seed=seed),
        state={
            "nets": {"model": model} if nested else model,
            "optimizer": optimizer,
        },
        compile=mode,
        **options,
    )


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_a_keras_run_resumes_exactly(mode, tmp_path):
    """BatchNorm, noise, dropout and Keras's AdamW: gone back to step 11, a run repeats itself."""
    with _trainer(mode, directory=tmp_path, steps_per_call=16) as whole:
        whole.train(until=11)
        whole.train(until=_UNTIL)
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    shutil.rmtree(max(tmp_path.glob("checkpoint-*")))
    with _trainer(mode, directory=tmp_path, steps_per_call=7) as second:
        second.open()
        assert int(second.global_step) == 11
        second.train(until=_UNTIL)
    assert steps.same(steps.values(whole.state), steps.values(second.state))
    assert whole.traces == second.traces == 1
    assert (tmp_path / "metrics.jsonl").read_bytes() == metrics
    (mean,) = [v for name, v in whole.state.items() if name.endswith("moving_mean")]
    assert np.abs(mean.numpy()).min() > 0


def test_noise_follows_from_seed_and_step_also_in_a_nested_state():
    """One seed gives one run, also with the model in a nested mapping; another another."""
    states = {}
    for name, options in {
        "first": {},
        "again": {},
        "nested": {"nested": True},
        "other": {"seed": 6},
    }.items():
        trainer = _trainer("graph", **options)
        trainer.train(until=4)
        states[name] = [variable.numpy() for variable in trainer.state.values()]
    for left, right in zip(states["first"], states["again"], strict=True):
        assert left.tobytes() == right.tobytes()
    for left, right in zip(states["first"], states["nested"], strict=True):
        assert left.tobytes() == right.tobytes()
    assert not all(
        np.array_equal(a, b) for a, b in zip(states["first"], states["other"], strict=True)
    )


def test_seed_generators_are_set_from_the_step():
    """Each generator gets a state of its own, a function of (seed, step, position) alone."""
    layers = [keras.layers.Dropout(0.5), keras.layers.GaussianNoise(1.0)]
    model = keras.Sequential([keras.Input((4,)), keras.Sequential(layers)])
    generators = adapter.seed_generators(model)
    assert len(generators) == 2

    def states(seed, step, position=0):
        adapter.seed_from_step(
            generators,
            tf.constant(seed, tf.int64),
            tf.constant(step, tf.int64),
            tf.constant(position),
        )
        found = [tuple(generator.state.numpy().tolist()) for generator in generators]
        model(tf.ones([2, 4]), training=True)  # draws advance the states
        return found

    seen = [states(seed, step) for seed in (0, 1) for step in (0, 1, 2**35)]
    seen.append(states(1, 1, position=8))
    assert len({state for pair in seen for state in pair}) == 14
    assert states(1, 1) == seen[4]


def test_a_keras_model_with_the_loops_optimizer_is_keras_with_its_own():
    """The same model trained by loop.optimizers.AdamW and by Keras's goes the same way."""
    own, theirs = (_trainer("graph", own_optimizer=flag) for flag in (True, False))
    for trainer in (own, theirs):
        trainer.train(until=5)
    weights = [
        {n: v.numpy() for n, v in t.state.items() if n.startswith("nets/")} for t in (own, theirs)
    ]
    assert weights[0].keys() == weights[1].keys()
    for left, right in zip(weights[0].values(), weights[1].values(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-4)


def test_a_step_that_is_not_finite_leaves_keras_statistics():
    """Keras's BatchNorm assigns its statistics in the forward pass; a skipped step undoes it."""
    data = steps.arrays(size=8, dtype=np.float32)
    data["x"][3, 1] = np.nan
    trainer = _trainer("graph", data=data, on_nonfinite="skip")
    before = steps.values(trainer.state)
    trainer.train(until=2)
    after = steps.values(trainer.state)
    changed = [n for n in before if before[n].tobytes() != after[n].tobytes()]
    assert changed == ["global_step"]


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_a_step_that_is_not_finite_leaves_whatever_the_forward_pass_assigns(mode):
    """A layer's kernel and vector, a metric, a counter of one's own; a finite step keeps them."""
    data = steps.arrays(size=16, dtype=np.float32)
    data["x"][11, 1] = np.nan  # In the second batch.
    keras.utils.set_random_seed(1)
    keras.backend.clear_session()
    inner = keras.layers.Dense(1, use_bias=False, name="inner")
    model = keras.Sequential([keras.Input((5,)), keras.layers.SpectralNormalization(inner)])
    metric, seen = keras.metrics.Mean(name="mean"), tf.Variable(0, dtype=tf.int64)

    def loss(batch):
        error = (model(batch["x"], training=True)[:, 0] - batch["y"]) ** 2
        metric.update_state(error)
        seen.assign_add(8)
        return error

    optimizer = optimizers.SGD(0.01)
    trainer = loop.Trainer(
        step=loop.GradientStep(loss, model.trainable_variables, optimizer),
        feed=Arrays(data, batch_size=8, shuffle=False),
        state={"model": model, "metric": metric, "seen": seen},
        compile=mode,
        on_nonfinite="skip",
    )
    start = steps.values(trainer.state)
    trainer.train(until=1)
    before = steps.values(trainer.state)
    assert {n for n in before if before[n].tobytes() != start[n].tobytes()} == set(before)
    assert (int(seen), float(metric.count.numpy())) == (8, 8.0)
    trainer.train(until=2)
    after = steps.values(trainer.state)
    changed = [n for n in before if before[n].tobytes() != after[n].tobytes()]
    assert changed == ["global_step"]


def test_a_model_built_again_names_what_resets_kerass_numbers(tmp_path):
    """A second `dense` of a process is `dense_1`: the refusal names the call that starts afresh."""

    def trained(**names):
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, **names)])
        step = loop.GradientStep(
            lambda batch: (model(batch["x"])[:, 0] - batch["y"]) ** 2,
            model.trainable_variables,
            adapter.KerasOptimizer(keras.optimizers.SGD(0.01)),
        )
        feed = Arrays(steps.arrays(dtype=np.float32), batch_size=8)
        with loop.Trainer(step=step, feed=feed, state=model, directory=tmp_path) as trainer:
            trainer.train(until=int(trainer.global_step) + 1)

    keras.utils.clear_session()
    trained()
    with pytest.raises(loop.checkpoint.StateMismatchError, match=r"call keras.utils.clear_session"):
        trained()
    with pytest.raises(loop.checkpoint.StateMismatchError) as raised:
        trained(name="other")
    assert "clear_session" not in str(raised.value)
    keras.utils.clear_session()
    trained()


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_a_model_that_is_not_built_is_told_of(mode):
    """Its variables would be made in the trace: the line says how a model is built."""

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    model = Model()
    feed = Arrays(steps.arrays(dtype=np.float32), batch_size=8)
    trainer = loop.Trainer(
        step=lambda batch: {"loss": tf.reduce_mean(model(batch["x"]))},
        feed=feed,
        state={"model": model},
        compile=mode,
    )
    with pytest.raises(RuntimeError, match=r"made variables .*built by calling it once on a batch"):
        trainer.train(until=2)
