"""A step that does not decide whether it was finite is put back where it was not."""

import numpy as np
import pytest
import tensorflow as tf

import loop
from loop import layers, optimizers

_MODES = ("eager", "graph", "xla")
_BAD = 2


def _two_optimizers(mode, poison, **options):
    """A critic and a generator, each with its Adam, as in the README but without a finite check."""
    generator = layers.Dense(3, 3, name="generator", seed=1)
    critic = layers.Dense(3, 1, name="critic", seed=2)
    seen = tf.Variable(0, name="seen", trainable=False)
    of_generator, of_critic = optimizers.Adam(0.01), optimizers.Momentum(0.01)
    of_generator.build(generator.trainable_variables)
    of_critic.build(critic.trainable_variables)

    def step(batch):
        seen.assign_add(1)
        with tf.GradientTape(persistent=True) as tape:
            real, fake = critic(batch["x"]), critic(generator(batch["x"][:, ::-1]))
            losses = tf.reduce_mean((fake - real) ** 2), tf.reduce_mean(fake**2)
        now = loop.step_context.current("step").global_step
        pairs = zip(losses, (critic, generator), (of_critic, of_generator), strict=True)
        for loss, model, optimizer in pairs:
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(loop.reduce_gradients(gradients), global_step=now)
        return {"seen": seen}  # finite, whatever the losses are

    x = np.random.default_rng(0).normal(1, 2, (24, 3)).astype(np.float32)
    x[4 * _BAD + 1, 2] = poison
    state = {"g": generator, "c": critic, "og": of_generator, "oc": of_critic, "seen": seen}
    feed = loop.feeds.Arrays({"x": x}, batch_size=4, shuffle=False)
    return loop.Trainer(step=step, feed=feed, state=state, compile=mode, **options)


def _values(trainer):
    return {name: variable.numpy() for name, variable in trainer.state.items()}


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("mode", _MODES)
def test_the_state_is_that_before_the_step(mode, poison):
    """Weights, slots and a counter of one's own are as after the last step that was finite."""
    trainer = _two_optimizers(mode, poison)
    with pytest.raises(loop.NonFiniteError):
        trainer.train(until=6)
    assert int(trainer.global_step) == _BAD
    sound = _two_optimizers(mode, poison)
    sound.train(until=_BAD)
    for name, value in _values(sound).items():
        np.testing.assert_array_equal(_values(trainer)[name], value, err_msg=name)


@pytest.mark.parametrize("mode", _MODES)
def test_a_skipped_step_changes_nothing(mode):
    """Skipped, the run goes on from the state before, with finite weights, and counts the step."""
    trainer = _two_optimizers(mode, np.nan, on_nonfinite="skip")
    trainer.train(until=_BAD)
    before = _values(trainer)
    trainer.train(until=_BAD + 1)
    for name, value in _values(trainer).items():
        if name != "global_step":
            np.testing.assert_array_equal(value, before[name], err_msg=name)
    trainer.train(until=6)
    assert int(trainer.state["seen"]) == 5
    assert all(np.isfinite(value).all() for value in _values(trainer).values())


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_finite_steps_are_those_of_a_step_that_checks(mode):
    """Where nothing is wrong, the same step with a check of its own trains the same, to the bit."""
    trainer = _two_optimizers(mode, 0.5)
    trainer.train(until=6)
    checked = _two_optimizers(mode, 0.5)
    plain = checked.compiled_loop()._step
    checked = loop.Trainer(
        step=lambda batch: {**plain(batch), "finite": tf.constant(True)},
        feed=checked.feed,
        state={n: v for n, v in checked.state.items() if n != "global_step"},
        compile=mode,
    )
    checked.train(until=6)
    for name, value in _values(trainer).items():
        np.testing.assert_array_equal(value, checked.state[name].numpy(), err_msg=name)


def test_a_nan_that_graph_mode_hides_from_the_loss_is_seen():
    """A fused operation may give a finite loss and gradients that are NaN: the weights decide."""
    hidden = layers.Dense(8, 16, name="hidden", seed=0)
    out = layers.Dense(16, 3, name="out", seed=1)
    optimizer = optimizers.SGD(0.1)
    variables = [*hidden.trainable_variables, *out.trainable_variables]
    optimizer.build(variables)

    def step(batch):
        with tf.GradientTape() as tape:
            logits = out(tf.nn.relu(tf.matmul(batch["x"], hidden.kernel) + hidden.bias))
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["y"], logits)
            loss = tf.reduce_mean(losses)
        now = loop.step_context.current("step").global_step
        optimizer.apply(tape.gradient(loss, variables), global_step=now)
        return {"loss": loss}

    x = np.ones((32, 8), np.float32)
    x[3, 2] = np.nan
    feed = loop.feeds.Arrays({"x": x, "y": np.zeros(32, np.int32)}, batch_size=32)
    trainer = loop.Trainer(step=step, feed=feed, state=[hidden, out, optimizer], compile="graph")
    with pytest.raises(loop.NonFiniteError):
        trainer.train(until=1)
    assert all(np.isfinite(value).all() for value in _values(trainer).values())
