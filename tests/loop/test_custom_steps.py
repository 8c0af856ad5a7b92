"""Steps are any function: two optimizers, a gradient through a gradient, an inner update."""

import numpy as np
import pytest
import tensorflow as tf

import loop
from kernels import random
from loop import layers, optimizers, step_context
from loop.feeds import Arrays
from tests.loop import steps

_MODES = ("eager", "graph", "xla")
_UNTIL = 6
_BATCH = 8


class _Critic(loop.Module):
    def __init__(self, name, inputs=5):
        self.hidden = layers.Dense(inputs, 6, name=f"{name}/hidden", seed=2, dtype=tf.float64)
        self.out = layers.Dense(6, 1, name=f"{name}/out", seed=2, gain=1.0, dtype=tf.float64)

    def __call__(self, x):
        return self.out(tf.tanh(self.hidden(x)))[:, 0]


def _noise(size):
    context = step_context.current("noise")
    return random.normal(
        context.seed, "noise", context.global_step, context.positions, (size,), dtype=tf.float64
    )


def _gan():
    """A GAN: critic and generator with an optimizer each, both updated in one step."""
    generator = layers.Dense(3, 5, name="generator", seed=3, dtype=tf.float64)
    critic = _Critic("critic")
    of_generator, of_critic = optimizers.Adam(0.02), optimizers.Momentum(0.05)
    of_generator.build(generator.trainable_variables)
    of_critic.build(critic.trainable_variables)

    def step(batch):
        context = step_context.current("gan")
        with tf.GradientTape(persistent=True) as tape:
            noise = _noise(3)
            fake = critic(generator(noise))
            real = critic(batch["x"])
            critic_loss = tf.reduce_mean(tf.nn.softplus(-real) + tf.nn.softplus(fake))
            generator_loss = tf.reduce_mean(tf.nn.softplus(-fake))
        both = [
            *tape.gradient(critic_loss, critic.trainable_variables),
            *tape.gradient(generator_loss, generator.trainable_variables),
        ]
        both = loop.reduce_gradients(both)
        finite = loop.all_finite(both)
        count = len(critic.trainable_variables)
        for optimizer, gradients in ((of_critic, both[:count]), (of_generator, both[count:])):
            optimizer.apply(gradients, global_step=context.global_step, finite=finite)
        return {
            "critic": critic_loss,
            "generator": generator_loss,
            "finite": finite,
            "noise": noise[0, 0],
        }

    state = {
        "generator": generator,
        "critic": critic,
        "optimizers": {"generator": of_generator, "critic": of_critic},
    }
    return step, state


def _wgan():
    """WGAN's critic with the gradient penalty: the loss holds a gradient, and is differentiated."""
    critic = _Critic("critic")
    optimizer = optimizers.Adam(0.01)
    optimizer.build(critic.trainable_variables)

    def step(batch):
        real, fake = batch["x"], _noise(5)
        between = 0.3 * real + 0.7 * fake
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(between)
                score = critic(between)
            slope = tf.norm(inner.gradient(score, between), axis=1)
            penalty = tf.reduce_mean((slope - 1) ** 2)
            loss = tf.reduce_mean(critic(fake) - critic(real)) + 10 * penalty
        gradients = tape.gradient(loss, critic.trainable_variables)
        optimizer.apply(gradients, global_step=step_context.current("wgan").global_step)
        return {"loss": loss, "penalty": penalty, "slope": tf.reduce_mean(slope)}

    return step, {"critic": critic, "optimizer": optimizer}


def _maml():
    """MAML: an inner gradient step on one half, whose result is judged on the other half."""
    weight = tf.Variable(np.linspace(-0.5, 0.5, 5), name="weight")
    rate = tf.Variable(0.1, name="inner_rate", dtype=tf.float64)
    optimizer = optimizers.SGD(0.05)

    def error(weights, x, y):
        return tf.reduce_mean((tf.linalg.matvec(x, weights) - y) ** 2)

    def loss(batch):
        x, y = batch["x"], batch["y"]
        half = _BATCH // 2
        start = tf.identity(weight)
        with tf.GradientTape() as inner:
            inner.watch(start)
            support = error(start, x[:half], y[:half])
        adapted = start - rate * inner.gradient(support, start)
        return error(adapted, x[half:], y[half:]), {"support": support}

    return loop.GradientStep(loss, [weight, rate], optimizer), {
        "weight": weight,
        "rate": rate,
        "optimizer": optimizer,
    }


def _maml_in_numpy():
    """The same updates written out: the outer gradient goes through the inner step's Hessian."""
    data = steps.arrays()
    feed = Arrays(data, batch_size=_BATCH, seed=9)
    weight, rate, losses = np.linspace(-0.5, 0.5, 5), 0.1, []
    for number in range(_UNTIL):
        ids = feed.example_ids(number)
        x, y = data["x"][ids], data["y"][ids]
        (sx, qx), (sy, qy) = np.split(x, 2), np.split(y, 2)
        gradient = 2 * sx.T @ (sx @ weight - sy) / len(sy)
        adapted = weight - rate * gradient
        error = qx @ adapted - qy
        losses.append((error**2).mean())
        of_adapted = 2 * qx.T @ error / len(qy)
        hessian = 2 * sx.T @ sx / len(sy)
        outer = of_adapted - rate * hessian @ of_adapted
        of_rate = -gradient @ of_adapted
        weight, rate = weight - 0.05 * outer, rate - 0.05 * of_rate
    return weight, rate, losses


@pytest.fixture(scope="module")
def runs():
    """Six steps of each kind in each mode, from the same start: rows and final state."""
    made = {}
    for kind, make in {"gan": _gan, "wgan": _wgan, "maml": _maml}.items():
        for mode in _MODES:
            step, state = make()
            rows = []
            trainer = loop.Trainer(
                step=step,
                feed=Arrays(steps.arrays(), batch_size=_BATCH, seed=9),
                state=state,
                compile=mode,
                steps_per_call=4,
                writers=[rows.extend],
            )
            start = steps.values(trainer.state)
            trainer.train(until=_UNTIL)
            made[kind, mode] = rows, start, steps.values(trainer.state), trainer.traces
    return made


@pytest.mark.parametrize("kind", ["gan", "wgan", "maml"])
@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_compiled_steps_compute_what_eager_steps_do(runs, kind, mode):
    """Rows and final variables agree with eager mode to float64's rounding, in one trace."""
    rows, _, state, traces = runs[kind, mode]
    true_rows, _, true_state, _ = runs[kind, "eager"]
    assert traces == 1
    assert [row["step"] for row in rows] == list(range(1, _UNTIL + 1))
    for row, truth in zip(rows, true_rows, strict=True):
        assert row.keys() == truth.keys()
        np.testing.assert_allclose(list(row.values()), list(truth.values()), rtol=1e-6)
    for name, truth in true_state.items():
        np.testing.assert_allclose(state[name], truth, rtol=1e-6, atol=1e-9, err_msg=name)


def test_a_gans_two_updates_are_one_step(runs):
    """After six steps both optimizers made six updates, every variable moved, the counter is 6."""
    rows, start, state, _ = runs["gan", "xla"]
    assert len({row["noise"] for row in rows}) == _UNTIL
    assert int(state["global_step"]) == _UNTIL
    for owner in ("generator", "critic"):
        assert int(state[f"optimizers/{owner}/update_count"]) == _UNTIL
    assert all(not np.array_equal(start[name], state[name]) for name in state)


def test_the_gradient_penalty_pulls_the_slope_to_one(runs):
    """The penalty's own gradient acts: it falls, and the mean slope nears 1."""
    rows, *_ = runs["wgan", "xla"]
    assert rows[-1]["penalty"] < 0.7 * rows[0]["penalty"]
    assert abs(rows[-1]["slope"] - 1) < abs(rows[0]["slope"] - 1)


def test_the_outer_gradient_goes_through_the_inner_step(runs):
    """MAML's weights and inner rate are those of the second-order gradient written out in NumPy."""
    rows, _, state, _ = runs["maml", "xla"]
    weight, rate, losses = _maml_in_numpy()
    np.testing.assert_allclose([row["loss"] for row in rows], losses, rtol=1e-6)
    np.testing.assert_allclose(state["weight"], weight, rtol=1e-6)
    np.testing.assert_allclose(state["rate"], rate, rtol=1e-6)


def _normed(*, in_region):
    """A step without an optimizer: a batch norm of the inputs."""
    norm = layers.BatchNorm(5, name="norm", momentum=0.8, dtype=tf.float64)

    def mean(x):
        return tf.reduce_mean(norm(x, training=True) ** 2)

    def step(batch):
        region = step_context.current("normed").region
        return {"mean": region(mean)(batch["x"]) if in_region else mean(batch["x"])}

    return step, {"norm": norm}


@pytest.mark.parametrize("mode", _MODES)
def test_what_a_layer_records_is_committed(mode):
    """The moving statistics of a batch norm move in a step of one's own; a NaN leaves them."""
    data = steps.arrays(size=16)
    data["x"][12, 3] = np.nan
    step, state = _normed(in_region=False)
    feed = Arrays(data, batch_size=_BATCH, shuffle=False)
    trainer = loop.Trainer(step=step, feed=feed, state=state, compile=mode, on_nonfinite="skip")
    trainer.train(until=2)
    x = data["x"][:_BATCH]
    norm = state["norm"]
    np.testing.assert_allclose(norm.moving_mean.numpy(), 0.2 * x.mean(0), rtol=1e-6)
    np.testing.assert_allclose(norm.moving_variance.numpy(), 0.8 + 0.2 * x.var(0), rtol=1e-6)


def test_what_is_recorded_out_of_reach_is_refused():
    """A layer inside a region of its own is named, where TensorFlow would speak of a graph."""
    step, state = _normed(in_region=True)
    feed = Arrays(steps.arrays(), batch_size=_BATCH)
    trainer = loop.Trainer(step=step, feed=feed, state=state, compile="graph")
    with pytest.raises(ValueError, match=r"norm/moving_mean', .* was recorded inside a region"):
        trainer.train(until=1)
