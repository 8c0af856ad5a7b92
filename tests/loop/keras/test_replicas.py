"""Keras's layers on two replicas: what they assign is one value, what they draw is not."""

import json
import logging
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import loop
from loop.feeds import Arrays

_BATCH, _SIZE = 16, 64


def _data():
    """Examples whose mean drifts, so that the slices of a batch have other moments."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(-2, 2, _SIZE)[:, None]
    x = (rng.normal(size=(_SIZE, 6)) + ramp).astype(np.float32)
    return {"x": x, "y": rng.normal(size=(_SIZE, 1)).astype(np.float32)}


class _Counter(keras.layers.Layer):
    """Counts examples, in an integer or with an aggregation of Keras's."""

    def __init__(self, dtype, aggregation=None):
        super().__init__(name="counter")
        self.seen = self.add_weight(
            shape=(),
            dtype=dtype,
            initializer="zeros",
            trainable=False,
            aggregation=aggregation,
            name="seen",
        )

    def call(self, x):
        self.seen.assign(self.seen + tf.cast(tf.shape(x)[0], self.seen.dtype))
        return x


class _Noise(keras.layers.Layer):
    def call(self, x):
        return x + keras.random.normal(tf.shape(x))


def _layers(kind):
    """The layers before the model's last one."""
    return {
        "batch_norm": lambda: [keras.layers.BatchNormalization(name="norm", momentum=0.8)],
        "both": lambda: [
            keras.layers.BatchNormalization(name="norm", momentum=0.8),
            keras.layers.Dropout(0.3),
            keras.layers.GaussianNoise(0.1),
        ],
        "spectral": lambda: [
            keras.layers.SpectralNormalization(
                keras.layers.Dense(5, use_bias=False, name="inner"), name="spectral"
            )
        ],
        "integer": lambda: [_Counter("int32")],
        "first": lambda: [_Counter("int32", "only_first_replica")],
        "mean": lambda: [_Counter("float32")],
        "noise": lambda: [_Noise()],
    }[kind]()


def _trainer(
    kind, replicas, mode="graph", *, custom=None, data=None, batch=_BATCH, metric=False, **options
):
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    with replicas.scope():
        model = keras.Sequential([keras.Input((6,)), *_layers(kind), keras.layers.Dense(1)])
        optimizer = loop.keras.KerasOptimizer(keras.optimizers.SGD(0.05))
        counted = keras.metrics.Mean(name="counted") if metric else None

    def loss(batch):
        error = (model(batch["x"], training=True) - batch["y"])[:, 0] ** 2
        if counted is not None:
            counted.update_state(error)
        return error

    step = loop.GradientStep(loss, model.trainable_variables, optimizer)

    def by_hand(batch):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(loss(batch)) / _BATCH
        variables = model.trainable_variables
        gradients = loop.reduce_gradients(tape.gradient(value, [v.value for v in variables]))
        finite = loop.all_finite(gradients) if custom == "finite" else tf.constant(True)
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.assign(tf.where(finite, variable - 0.05 * gradient, variable))
        row = {"loss": loop.reduce_sum([value])[0]}
        return row | ({"finite": finite} if custom == "finite" else {})

    return loop.Trainer(
        step=by_hand if custom else step,
        feed=Arrays(data or _data(), batch_size=batch, shuffle=False, seed=1),
        state={"model": model, "optimizer": optimizer, **({"metric": counted} if metric else {})},
        compile=mode,
        replicas=replicas,
        **options,
    )


def _copies(trainer):
    """Name -> the value on each replica."""
    return {
        name: [part.numpy() for part in loop.variables.components(variable)]
        for name, variable in trainer.state.items()
    }


def _copies_are_equal(trainer):
    copies = _copies(trainer)
    assert {len(values) for values in copies.values()} == {2}
    return all(a.tobytes() == b.tobytes() for a, b in copies.values())


def _value(trainer, suffix):
    (found,) = [v for n, v in _copies(trainer).items() if n.endswith(suffix)]
    return found[0]


def _statistics(replicas):
    """By mode and step: the statistics after three steps, and whether the copies are equal."""
    found = []
    for mode, custom in (
        ("graph", None),
        ("xla", None),
        ("eager", None),
        ("graph", "plain"),
        ("graph", "finite"),
    ):
        trainer = _trainer("batch_norm", replicas, mode, custom=custom)
        trainer.train(until=3)
        mean, variance = (_value(trainer, f"moving_{n}") for n in ("mean", "variance"))
        found.append([mean.tolist(), variance.tolist(), _copies_are_equal(trainer)])
    return found


def _unequal_slices(replicas):
    """The statistics after one batch of 15: 8 examples, and 7 with one of padding."""
    trainer = _trainer("batch_norm", replicas, batch=15)
    trainer.train(until=1)
    return [_value(trainer, "moving_mean").tolist(), _copies_are_equal(trainer)]


def _resumed(replicas):
    """By mode: whether a run resumed at step 3 is the uncut one to the bit."""
    found = []
    for mode in ("graph", "xla"):
        directory = tempfile.mkdtemp()
        with _trainer("both", replicas, mode, directory=directory) as first:
            first.train(until=3)
        with _trainer("both", replicas, mode, directory=directory) as second:
            second.train(until=6)
        uncut = _trainer("both", replicas, mode)
        uncut.train(until=6)
        same = [
            a.tobytes() == b.tobytes()
            for name in uncut.state
            for a, b in zip(_copies(uncut)[name], _copies(second)[name], strict=True)
        ]
        found.append(len(same) == 2 * len(uncut.state) and all(same) and _copies_are_equal(uncut))
    return found


def _skipped(replicas):
    """What changed in a step that was not finite on one replica, by the kind of step."""
    data = _data()
    data["x"][3, 2] = np.nan
    found = []
    for custom in (None, "plain", "finite"):
        kind = "batch_norm"
        trainer = _trainer(kind, replicas, custom=custom, data=data, on_nonfinite="skip")
        before = _copies(trainer)
        trainer.train(until=1)
        after = _copies(trainer)
        found.append([n for n in before if any(map(np.any, np.not_equal(before[n], after[n])))])
    return found


def _spectral(replicas):
    """Kernel and vector after two steps, on two replicas and on one."""
    found = []
    for where in (replicas, loop.distribute.single()):
        trainer = _trainer("spectral", where)
        trainer.train(until=2)
        if where is replicas:
            assert _copies_are_equal(trainer)
        found.append([_value(trainer, n).tolist() for n in ("inner/kernel", "vector_u")])
    return found


def _counters(replicas):
    """Counters of examples after two steps: the first replica's, and one of floats, averaged."""
    found = []
    for kind in ("first", "mean"):
        trainer = _trainer(kind, replicas)
        trainer.train(until=2)
        assert _copies_are_equal(trainer)
        found.append(float(_value(trainer, "seen")))
    return found


def _recurrent(replicas):
    with replicas.scope():
        given = keras.Input(batch_shape=(8, 6, 1))
        lstm = keras.layers.LSTM(3, stateful=True, name="lstm")
        model = keras.Model(given, keras.layers.Dense(1)(lstm(given)))
    return loop.Trainer(
        step=lambda batch: {"loss": tf.reduce_sum(model(batch["x"][:, :, None]))},
        feed=Arrays(_data(), batch_size=_BATCH),
        state=model,
        replicas=replicas,
    )


def _refusals(replicas):
    """The lines of what is refused."""
    lines = []
    for attempt in (
        lambda: _trainer("integer", replicas).train(until=1),
        lambda: _trainer("noise", replicas, "graph").train(until=1),
        lambda: _trainer("noise", replicas, "eager").train(until=1),
        lambda: _trainer("batch_norm", replicas, metric=True),
        lambda: _recurrent(replicas),
    ):
        try:
            attempt()
            lines.append("nothing")
        except ValueError as error:
            lines.append(str(error))
    return lines


_SEEDED = {
    "Dropout": lambda: keras.layers.Dropout(0.5),
    "SpatialDropout1D": lambda: keras.layers.SpatialDropout1D(0.5),
    "AlphaDropout": lambda: keras.layers.AlphaDropout(0.5),
    "GaussianDropout": lambda: keras.layers.GaussianDropout(0.5),
    "GaussianNoise": lambda: keras.layers.GaussianNoise(0.5),
    "RandomTranslation": lambda: keras.layers.RandomTranslation(0.4, 0.4),
    "RandomBrightness": lambda: keras.layers.RandomBrightness(0.5, value_range=(0, 1)),
}


def _draws(replicas):
    """Layer -> the mean distance of the two replicas' outputs for equal inputs."""
    found = {}
    image = np.random.default_rng(0).uniform(0.1, 0.9, [8, 8, 12, 3]).astype(np.float32)
    for name, make in _SEEDED.items():
        keras.backend.clear_session()
        x = image if name.startswith("Random") else image.reshape(8, 8, -1)
        with replicas.scope():
            model = keras.Sequential([keras.Input(x.shape[1:]), make()])

        def step(_, model=model, x=x):
            y = model(tf.constant(x), training=True)
            total, squares = loop.reduce_sum([y, y * y])
            return {"distance": tf.reduce_mean(2.0 * squares - total * total)}

        feed = Arrays({"i": np.arange(16)}, batch_size=16)
        trainer = loop.Trainer(
            step=step, feed=feed, state=model, compile="graph", replicas=replicas
        )
        trainer.train(until=1)
        found[name] = float(trainer.rows["distance"][0])
    return found


_CASES = (_statistics, _unequal_slices, _resumed, _skipped, _spectral, _counters, _refusals, _draws)


@pytest.fixture(scope="module")
def found():
    """Case -> what it gave, all in one process whose CPU is split in two."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.loop.keras.test_replicas"],
        cwd=pathlib.Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return {**json.loads(run.stdout.splitlines()[-1]), "log": run.stderr}


def _expected_statistics(steps):
    """Keras's rule in float64: momentum 0.8, the mean over the replicas of slices' moments."""
    mean, variance = np.zeros(6), np.ones(6)
    x = _data()["x"].astype(np.float64)
    for step in range(steps):
        batch = x[step * _BATCH : (step + 1) * _BATCH]
        halves = batch[: _BATCH // 2], batch[_BATCH // 2 :]
        mean = 0.8 * mean + 0.2 * np.mean([half.mean(0) for half in halves], 0)
        variance = 0.8 * variance + 0.2 * np.mean([half.var(0) for half in halves], 0)
    return mean, variance


def test_statistics_are_the_mean_over_the_replicas(found):
    """BatchNormalization in every mode, in a GradientStep and in steps of one's own."""
    mean, variance = _expected_statistics(3)
    assert len(found["_statistics"]) == 5
    for found_mean, found_variance, equal in found["_statistics"]:
        np.testing.assert_allclose(found_mean, mean, rtol=1e-5)
        np.testing.assert_allclose(found_variance, variance, rtol=1e-5)
        assert equal
    assert "norm/moving_variance'; the mean over the replicas is kept\n" in found["log"]


def test_slices_count_by_their_examples(found):
    """8 and 7 examples of a batch of 15; the slice's padding, which Keras cannot know, is said."""
    x = _data()["x"].astype(np.float64)
    slices = x[:8].mean(0), np.concatenate([x[8:15], x[:1]]).mean(0)
    mean, equal = found["_unequal_slices"]
    np.testing.assert_allclose(mean, 0.2 * (8 * slices[0] + 7 * slices[1]) / 15, rtol=1e-5)
    assert equal
    assert "kept, of values that the slices' padding is in" in found["log"]


def test_a_resume_is_exact(found):
    """BatchNormalization, Dropout and noise, in graph and XLA: equal to the bit."""
    assert found["_resumed"] == [True, True]


def test_a_step_that_is_not_finite_changes_nothing(found):
    """On neither replica, in a GradientStep and in steps with and without `finite`."""
    assert found["_skipped"] == [["global_step"]] * 3


def test_a_layer_that_assigns_its_kernel(found):
    """SpectralNormalization: the optimizer goes on from the kernel, as on one replica."""
    for several, one in zip(*found["_spectral"], strict=True):
        np.testing.assert_allclose(several, one, rtol=1e-5, atol=1e-6)


def test_what_tensorflow_aggregates_stays(found):
    """An integer that TensorFlow copies from the first replica is accepted."""
    assert found["_counters"] == [16.0, 16.0]


def test_what_has_no_one_value_is_refused(found):
    """In one line, with the name and the mend."""
    integer, graph, eager, metric, recurrent = found["_refusals"]
    assert "counter/seen', each replica its own copy" in integer
    for unseeded in (graph, eager):
        assert "draws by keras.random without a seed on 2 replicas" in unseeded
    assert "'metric/counted/total', 'metric/counted/count' have another value on each" in metric
    assert "'lstm/states/0', 'lstm/states/1' would be of other examples" in recurrent
    assert not any("\n" in line for line in found["_refusals"])


@pytest.mark.parametrize("layer", _SEEDED)
def test_replicas_draw_other_numbers(found, layer):
    """For equal inputs each replica gives another output."""
    assert found["_draws"][layer] > 1e-3


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    both = loop.distribute.mirrored(virtual_devices=2)
    print(json.dumps({case.__name__: case(both) for case in _CASES}))
