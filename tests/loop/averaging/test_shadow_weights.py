"""Weight EMA and Lookahead against TensorFlow's average, Keras's, and the paper's recursion."""

import itertools
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import loop
from loop import distribute, optimizers
from loop.averaging.ema import WeightEMA
from loop.averaging.lookahead import Lookahead
from loop.feeds import Arrays
from tests.loop import steps

_ROOT = pathlib.Path(__file__).parents[3]
_STEPS = 20


def _trainer(
    after_update, *, mode="graph", replicas=None, ema=None, nan_at=None, rate=0.02, **options
):
    replicas = replicas or distribute.single()
    data = steps.arrays(40)
    if nan_at is not None:
        data["y"][nan_at] = np.nan
    with replicas.scope():
        net = steps.Net()
        optimizer = optimizers.Adam(rate)
        step = loop.GradientStep(
            steps.squared_errors(net), net.trainable_variables, optimizer, after_update=after_update
        )
    weights = []
    trainer = loop.Trainer(
        step=step,
        feed=Arrays(data, batch_size=4, seed=0, shuffle=False),
        state={"net": net, "optimizer": optimizer},
        compile=mode,
        replicas=replicas,
        evaluation=loop.Evaluation(
            lambda batch: {"loss": (net(batch["x"], training=False) - batch["y"]) ** 2},
            Arrays(steps.arrays(13, seed=8), batch_size=5),
        ),
        evaluation_weights=ema,
        on_nonfinite="skip",
        actions=[loop.Every(1, lambda _: weights.append(_weights(net)))],
        **options,
    )
    return trainer, net, weights


def _weights(net):
    return {v.name.split(":")[0]: v.numpy() for v in net.trainable_variables}


@pytest.mark.parametrize(("mode", "ramp"), [("graph", True), ("xla", False)])
def test_the_average_is_tensorflows(mode, ramp):
    """After 20 updates, one of them skipped, the average is tf.train's over the weights seen."""
    ema = WeightEMA(0.7, ramp=ramp)
    trainer, net, weights = _trainer([ema], mode=mode, nan_at=4 * 6)
    initial = _weights(net)
    trainer.train(until=_STEPS)
    assert [row["finite"] for row in trainer.rows].count(0) <= 1
    twins = {name: tf.Variable(value) for name, value in initial.items()}
    updates = tf.Variable(0)
    truth = tf.train.ExponentialMovingAverage(0.7, num_updates=updates if ramp else None)
    truth.apply(list(twins.values()))
    seen = [initial, *weights]
    done = 0
    for before, after in itertools.pairwise(seen):
        if all(np.array_equal(before[name], after[name]) for name in before):
            continue
        done += 1
        updates.assign(done)
        for name, twin in twins.items():
            twin.assign(after[name])
        truth.apply(list(twins.values()))
    assert done == _STEPS - 2  # the batch of step 6 comes again as that of step 16
    for name, twin in twins.items():
        found = trainer.state[f"step/ema/{name}"].numpy()
        # tf.train computes its decay in float32.
        np.testing.assert_allclose(found, truth.average(twin).numpy(), rtol=1e-5, atol=1e-8)
        assert not np.allclose(found, twin.numpy(), rtol=1e-3)
    assert trainer.state["step/ema/update_count"].numpy() == done


def test_the_average_is_kerass():
    """Without the ramp it is what Keras's use_ema keeps for the same gradients."""
    weight = tf.Variable([1.0, -2.0, 0.5], name="weight")
    ema = WeightEMA(0.9, ramp=False)
    step = loop.GradientStep(
        lambda batch: tf.reduce_sum(batch["x"] * weight, -1),
        [weight],
        optimizers.SGD(0.3),
        after_update=[ema],
    )
    twin = keras.Variable(weight.numpy())
    theirs = keras.optimizers.SGD(0.3, use_ema=True, ema_momentum=0.9)
    theirs.build([twin])
    for number in range(12):
        x = steps.arrays(4, inputs=3, dtype=np.float32, seed=number)["x"]
        with steps.inside(4, global_step=number):
            step({"x": tf.constant(x)})
        if number == 0:  # Keras starts from the weights after the first update, not before it.
            ema.state["weight"].assign(weight)
        theirs.apply([tf.constant(x.mean(0))], [twin])
    np.testing.assert_allclose(weight.numpy(), twin.numpy(), rtol=1e-5)
    theirs_average = theirs._model_variables_moving_average[0].numpy()
    np.testing.assert_allclose(ema.state["weight"].numpy(), theirs_average, rtol=1e-5)


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_evaluation_is_on_the_average_and_leaves_the_weights(mode):
    """The evaluation's loss is the average's, training's variables keep every bit, no retrace."""
    ema = WeightEMA(0.95)
    trainer, net, _ = _trainer([ema], mode=mode, ema=ema)
    data = steps.arrays(13, seed=8)
    for until in (10, 20):
        trainer.train(until=until)
        before = steps.values(trainer.state)
        found = trainer.evaluate()["loss"]
        assert steps.same(before, steps.values(trainer.state))
        losses = {}
        for which in ("own", "average"):
            if which == "average":
                for variable in net.trainable_variables:
                    variable.assign(ema.state[variable.name.split(":")[0]])
            error = net(tf.constant(data["x"]), training=False).numpy() - data["y"]
            losses[which] = (error**2).mean()
        steps.put_back(trainer.state, before)
        np.testing.assert_allclose(found, losses["average"], rtol=1e-9)
        assert abs(losses["own"] - losses["average"]) > 1e-4 * losses["own"]
    assert trainer._evaluations.compiled[""].traces == 1
    assert trainer.traces == 1


def test_an_evaluation_that_fails_gives_the_weights_back():
    """An exception inside the evaluation leaves weights and average where they were."""
    ema = WeightEMA(0.95)
    trainer, _, _ = _trainer([ema], ema=ema)
    trainer.train(until=5)
    before = steps.values(trainer.state)
    with pytest.raises(KeyboardInterrupt), trainer.evaluated_weights():
        raise KeyboardInterrupt
    assert steps.same(before, steps.values(trainer.state))


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_lookahead_is_the_papers_recursion(mode):
    """SGD with slow weights: NumPy's algorithm 1 gives weights and slow weights of each step."""
    weight = tf.Variable(np.array([1.0, -2.0, 0.5]), name="weight")
    lookahead = Lookahead(every=3, rate=0.4)
    optimizer = optimizers.SGD(0.3)
    data = {"x": steps.arrays(40, inputs=3)["x"]}
    step = loop.GradientStep(
        lambda batch: tf.reduce_sum(batch["x"] * weight**2, -1),
        [weight],
        optimizer,
        after_update=[lookahead],
    )
    fast = slow = weight.numpy()
    seen = []
    trainer = loop.Trainer(
        step=step,
        feed=Arrays(data, batch_size=4, shuffle=False),
        state={"weight": weight, "optimizer": optimizer},
        compile=mode,
        actions=[
            loop.Every(
                1, lambda _: seen.append((weight.numpy(), lookahead.state["weight"].numpy()))
            )
        ],
    )
    trainer.train(until=10)
    for number, (mine, mine_slow) in enumerate(seen):
        x = data["x"][4 * number : 4 * number + 4].mean(0)
        fast = fast - np.float32(0.3) * 2 * x * fast
        if (number + 1) % 3 == 0:
            slow = slow + 0.4 * (fast - slow)
            fast = slow
        np.testing.assert_allclose(mine, fast, rtol=1e-5)
        np.testing.assert_allclose(mine_slow, slow, rtol=1e-5)


def test_resume_is_exact_with_both(tmp_path):
    """Average, slow weights and their counts come back: 20 steps are 7 + 13."""
    runs = {}
    for name, ends in (("whole", [20]), ("cut", [7, 20])):
        for until in ends:
            trainer, _, _ = _trainer([Lookahead(4), WeightEMA(0.9)], directory=tmp_path / name)
            with trainer:
                trainer.train(until=until)
        runs[name] = steps.values(trainer.state)
    assert steps.same(runs["whole"], runs["cut"])
    assert "step/lookahead/out/kernel" in runs["cut"]


def test_bad_numbers_and_a_second_step_are_refused():
    """A decay of 1 would never move; shadows of one step are not another's."""
    for decay in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="decay must be in"):
            WeightEMA(decay)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        Lookahead(0)
    with pytest.raises(ValueError, match=r"rate must be in \(0, 1\], got 0"):
        Lookahead(2, rate=0.0)
    ema = WeightEMA(0.9)
    ema.build([tf.Variable(1.0, name="weight")])
    with pytest.raises(ValueError, match="belongs to another step already"):
        ema.build([tf.Variable(1.0, name="weight")])


def _replicas_main():
    replicas = distribute.mirrored(virtual_devices=2)
    found = {}
    for mode in ("graph", "xla"):
        with replicas.scope():
            ema = WeightEMA(0.9)
        trainer, _, _ = _trainer(
            [Lookahead(4), ema], mode=mode, replicas=replicas, ema=ema, rate=0.001
        )
        trainer.train(until=6)
        found[mode] = {
            "loss": trainer.evaluate()["loss"],
            "copies": {
                name: [copy.numpy().tolist() for copy in variable.values]
                for name, variable in trainer.state.items()
                if name.startswith("step/")
            },
        }
    print(json.dumps(found))


def test_replicas_keep_the_averages_of_one_device():
    """On two virtual CPUs averages, slow weights and the evaluation on them are one device's."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.loop.averaging.test_shadow_weights"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    for mode in ("graph", "xla"):
        assert found[mode]["copies"].keys() >= {"step/ema/out/kernel", "step/lookahead/out/kernel"}
        for name, (first, second) in found[mode]["copies"].items():
            assert first == second, name
        for name, copies in found["graph"]["copies"].items():
            np.testing.assert_allclose(copies[0], found["xla"]["copies"][name][0], rtol=1e-9)
    np.testing.assert_allclose(found["graph"]["loss"], found["xla"]["loss"], rtol=1e-9)


if __name__ == "__main__":
    _replicas_main()
