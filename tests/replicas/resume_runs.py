"""Trains each kind of step, cuts it and resumes it: `python -m tests.replicas.resume_runs 2 FILE`.

FILE gets {"KIND/MODE": "exact", or the names of what differs, or the line of a refusal}. The number
is that of replicas, virtual CPUs of this process.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf

import kernels
import loop
from loop import checkpoint, distribute
from loop.variables import components

_BATCH = 8
_CUT = 5
_UNTIL = 9
_MODES = ("graph", "xla")


def _arrays():
    """Sequences, and targets that depend on them; 37 examples, no multiple of the batch."""
    rng = np.random.default_rng(11)
    x = rng.normal(0.4, 1.3, (37, 4, 3)).astype(np.float32)
    return {"x": x, "y": (x.sum((1, 2)) > 1).astype(np.int32)}


def _feed():
    return loop.feeds.Arrays(_arrays(), batch_size=_BATCH, seed=9)


def _network():
    return loop.layers.Dense(12, 5, name="hidden", seed=1), loop.layers.Dense(
        5, 2, name="out", seed=2
    )


def _gradient_step(model, optimizer):
    def loss(batch):
        return kernels.softmax_cross_entropy(batch["y"], model(batch["x"]))

    return loop.GradientStep(loss, model.trainable_variables, optimizer)


class _Ours(loop.Module):
    def __init__(self):
        self.hidden, self.out = _network()
        self.norm = loop.layers.BatchNorm(5, name="norm", momentum=0.8)
        self.dropout = loop.layers.Dropout(0.3, name="dropout")

    def __call__(self, x):
        x = self.norm(self.hidden(tf.reshape(x, [-1, 12])), training=True)
        return self.out(self.dropout(tf.nn.relu(x), training=True))


def our_loop():
    """The README's first loop: our layers, a schedule, clipping."""
    model = _Ours()
    rate = loop.schedules.exponential_decay(0.05, decay_steps=3, decay_rate=0.8, staircase=True)
    optimizer = loop.optimizers.Adam(rate)
    return _gradient_step(model, optimizer), _feed(), {"model": model, "optimizer": optimizer}


def gan():
    """The README's GAN: two optimizers in one step, which checks its gradients."""
    generator, critic = loop.layers.Dense(12, 12, name="g", seed=3), _network()
    optimizers = loop.optimizers.Adam(0.02), loop.optimizers.Momentum(0.05)
    variables = (
        generator.trainable_variables,
        [*critic[0].trainable_variables, *critic[1].trainable_variables],
    )
    for optimizer, trained in zip(optimizers, variables, strict=True):
        optimizer.build(trained)

    def judged(x):
        return tf.reduce_mean(critic[1](tf.tanh(critic[0](x))), -1)

    def step(batch):
        context = loop.step_context.current("gan")
        real = tf.reshape(batch["x"], [-1, 12])
        noise = kernels.random.normal(
            context.seed, "noise", context.global_step, context.positions, (12,)
        )
        with tf.GradientTape(persistent=True) as tape:
            fake = generator(noise)
            critic_loss = tf.reduce_mean(tf.nn.softplus(judged(fake)) - judged(real))
            generator_loss = tf.reduce_mean(tf.nn.softplus(-judged(fake)))
        count = len(variables[0])
        reduced = loop.reduce_gradients(
            [
                *tape.gradient(generator_loss, variables[0]),
                *tape.gradient(critic_loss, variables[1]),
            ]
        )
        finite = loop.all_finite(reduced)
        for optimizer, gradients in zip(
            optimizers, (reduced[:count], reduced[count:]), strict=True
        ):
            optimizer.apply(gradients, global_step=context.global_step, finite=finite)
        return {"critic": critic_loss, "generator": generator_loss, "finite": finite}

    owners = {"generator": generator, "critic": list(critic), "optimizers": list(optimizers)}
    return step, _feed(), owners


def _keras_model():
    keras.utils.set_random_seed(4)
    layers = [
        keras.layers.Flatten(),
        keras.layers.Dense(5),
        keras.layers.BatchNormalization(momentum=0.8),
        keras.layers.Dropout(0.4, seed=7),
        keras.layers.Dense(2),
    ]
    return keras.Sequential([keras.Input((4, 3)), *layers]), loop.optimizers.Adam(0.02)


def keras_model():
    """A Keras model with BatchNormalization and Dropout."""
    model, optimizer = _keras_model()
    step = loop.GradientStep(
        lambda batch: kernels.softmax_cross_entropy(batch["y"], model(batch["x"], training=True)),
        model.trainable_variables,
        optimizer,
    )
    return step, _feed(), {"model": model, "optimizer": optimizer}


def keras_metric():
    """The same model, and a Keras metric that the step updates."""
    (model, optimizer), metric = _keras_model(), keras.metrics.Mean(name="running")

    def loss(batch):
        losses = kernels.softmax_cross_entropy(batch["y"], model(batch["x"], training=True))
        metric.update_state(losses)
        return losses

    step = loop.GradientStep(loss, model.trainable_variables, optimizer)
    return step, _feed(), {"model": model, "optimizer": optimizer, "metric": metric}


def lstm():
    """A Keras LSTM, which does not keep its state over batches."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input((4, 3)), keras.layers.LSTM(4), keras.layers.Dense(2)])
    optimizer = loop.optimizers.RMSProp(0.01)
    return _gradient_step(model, optimizer), _feed(), {"model": model, "optimizer": optimizer}


def stateful_lstm():
    """A Keras LSTM whose state goes from batch to batch."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input(batch_shape=(_BATCH // _count(), 4, 3))
    layers = [keras.layers.LSTM(4, stateful=True), keras.layers.Dense(2)]
    model = keras.Sequential([inputs, *layers])
    optimizer = loop.optimizers.RMSProp(0.01)
    return _gradient_step(model, optimizer), _feed(), {"model": model, "optimizer": optimizer}


def stream():
    """A tf.data stream of shuffled examples."""
    examples = tf.data.Dataset.from_tensor_slices(_arrays())
    make = loop.feeds.repeated(examples, batch_size=_BATCH, shuffle_buffer=20)
    step, _, state = our_loop()
    return step, loop.feeds.Dataset(make, batch_size=_BATCH, seed=9), state


def custom_step():
    """A function that updates by itself and reports no `finite`."""
    model = _Ours()
    optimizer = loop.optimizers.Lion(0.01)
    optimizer.build(model.trainable_variables)
    steps_seen = tf.Variable(0.5, name="steps_seen")

    def step(batch):
        with tf.GradientTape() as tape:
            losses = kernels.softmax_cross_entropy(batch["y"], model(batch["x"]))
            loss = tf.reduce_mean(losses)
        gradients = loop.reduce_gradients(tape.gradient(loss, model.trainable_variables))
        global_step = loop.step_context.current("custom").global_step
        optimizer.apply(gradients, global_step=global_step)
        steps_seen.assign(steps_seen * 0.9 + 1)
        return {"loss": loss}

    state = {"model": model, "optimizer": optimizer, "steps_seen": steps_seen}
    return step, _feed(), state


KINDS = {
    kind.__name__: kind
    for kind in (our_loop, gan, keras_model, keras_metric, lstm, stateful_lstm, stream, custom_step)
}


def _count() -> int:
    return int(sys.argv[1])


def _trainer(kind, mode, replicas, directory):
    keras.utils.clear_session()  # A new process would have made no names either.
    with replicas.scope():
        step, feed, state = KINDS[kind]()
    return loop.Trainer(
        step=step,
        feed=feed,
        state=state,
        compile=mode,
        replicas=replicas,
        directory=directory,
        steps_per_call=4,
        checkpoint_every=_CUT,
    )


def _values(trainer):
    """Every replica's copy of every variable."""
    return {
        f"{name}@{index}": copy.numpy()
        for name, variable in trainer.state.items()
        for index, copy in enumerate(components(variable))
    }


def outcome(kind, mode, replicas, folder):
    """What became of a resumed run against one that was not cut."""
    with _trainer(kind, mode, replicas, folder) as trainer:
        start = _values(trainer)
        trainer.train(until=_UNTIL)
        expected = _values(trainer)
    shutil.rmtree(folder / f"checkpoint-{_UNTIL:012}")
    with _trainer(kind, mode, replicas, folder) as trainer:
        trainer.open()
        assert int(trainer.global_step) == _CUT
        trainer.train(until=_UNTIL)
        found = _values(trainer)
    still = [name for name in start if name.startswith("model") and "seed" not in name]
    assert any((start[name] != expected[name]).any() for name in still or start)
    differing = [name for name in expected if not np.array_equal(expected[name], found[name])]
    return f"differs: {', '.join(differing)}" if differing else "exact"


def main() -> None:
    """See the head of the file."""
    replicas = (
        distribute.single() if _count() == 1 else distribute.mirrored(virtual_devices=_count())
    )
    found = {}
    for kind in KINDS:
        for mode in _MODES:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found[f"{kind}/{mode}"] = outcome(kind, mode, replicas, pathlib.Path(folder))
                except (ValueError, TypeError, RuntimeError, checkpoint.CheckpointError) as error:
                    found[f"{kind}/{mode}"] = f"{type(error).__name__}: {error}"
    pathlib.Path(sys.argv[2]).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
