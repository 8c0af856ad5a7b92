"""A batch that is not finite, in every compile mode: stopped at or skipped, named, put back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import kernels
import loop
from kernels import pooling
from loop import checkpoint, handles
from loop.nonfinite import examination, origins, replay_file
from tests.loop import steps

MODES = ("eager", "graph", "xla")
ROOT = Path(__file__).resolve().parents[3]
BATCH = 8
POISONED = 21
SLICE = 5


def poisoned_arrays():
    """Examples of which one has an infinite input."""
    data = steps.arrays(64)
    data["x"][POISONED, 2] = np.inf
    return data


def make_trainer(mode, *, data=None, loss=None, **options):
    """A network with BatchNorm, dropout and Adam on the poisoned data."""
    net = steps.Net(dropout=0.2)
    optimizer = loop.optimizers.Adam(0.01)
    step = loop.GradientStep(
        (loss or steps.squared_errors)(net), net.trainable_variables, optimizer
    )
    feed = loop.feeds.Arrays(poisoned_arrays() if data is None else data, batch_size=BATCH, seed=3)
    return loop.Trainer(
        step=step,
        feed=feed,
        state={"net": net, "optimizer": optimizer},
        compile=mode,
        steps_per_call=SLICE,
        **options,
    )


def poisoned_step(feed):
    """The first step whose batch holds the poisoned example, beyond the first call."""
    found = next(s for s in range(100) if POISONED in feed.example_ids(s))
    assert found > 0
    return found


@pytest.mark.parametrize("mode", MODES)
def test_a_poisoned_batch_stops_the_run_and_is_named(mode, tmp_path):
    """Stop at step k: the state is bit for bit that after k - 1, and the line and file say all."""
    trainer = make_trainer(mode, directory=tmp_path)
    k = poisoned_step(trainer.feed)
    trainer.train(until=k)
    before = steps.values(trainer.state)
    with pytest.raises(loop.NonFiniteError) as raised:
        trainer.train(until=k + 3)
    assert raised.value.step == k
    assert steps.same(before, steps.values(trainer.state))
    line = str(raised.value)
    assert "\n" not in line
    for named in (
        f"step {k} is not finite",
        f"'x' of examples {POISONED};",
        "gradients that are not finite: dense/kernel, norm/scale, norm/offset, out/kernel",
        f"the state is that of step {k}; seed 3, examples "
        + ", ".join(map(str, trainer.feed.example_ids(k))),
        f"replay file {tmp_path / f'nonfinite-{k:012d}.json'}",
    ):
        assert named in line
    trainer.close()
    file = replay_file.read(tmp_path / f"nonfinite-{k:012d}.json")
    assert (file.step, file.seed, file.checkpoint) == (k, 3, f"checkpoint-{k:012d}")
    assert file.example_ids == trainer.feed.example_ids(k).tolist()
    assert file.row["loss"] in ("nan", "inf")
    # Another run's parts, set from the file, find the same.
    again = make_trainer("eager")
    replay_file.restore(tmp_path / f"nonfinite-{k:012d}.json", file, again.state)
    findings = again.examine()
    assert list(findings.variables) == file.variables
    assert findings.batch == {"x": (trainer.feed.example_ids(k).tolist().index(POISONED),)}
    assert not findings.finite


@pytest.mark.parametrize("mode", MODES)
def test_a_poisoned_batch_is_skipped_alone(mode):
    """Weights, slots and statistics stay as before step k, the counter goes on, then all do."""
    trainer = make_trainer(mode, on_nonfinite="skip", max_nonfinite=1)
    k = poisoned_step(trainer.feed)
    trainer.train(until=k)
    before = steps.values(trainer.state)
    trainer.train(until=k + 1)
    assert trainer.rows["finite"].tolist()[-1] == 0.0
    after = steps.values(trainer.state)
    assert after.pop("global_step") == before.pop("global_step") + 1 == k + 1
    assert steps.same(before, after)
    trainer.train(until=k + 2)
    assert trainer.rows["finite"].tolist() == [1.0]
    assert not steps.same(
        before, {n: v for n, v in steps.values(trainer.state).items() if n in before}
    )


def test_too_many_in_a_row_stop_with_the_state_before_them():
    """With every batch poisoned, two are skipped and the third ends the run."""
    data = {name: np.full_like(array, np.nan) for name, array in steps.arrays(64).items()}
    trainer = make_trainer("graph", data=data, on_nonfinite="skip", max_nonfinite=2)
    before = steps.values(trainer.state)
    with pytest.raises(loop.NonFiniteError, match="step 2 is not finite after 3 such steps"):
        trainer.train(until=9)
    after = steps.values(trainer.state)
    assert after.pop("global_step") == 2
    before.pop("global_step")
    assert steps.same(before, after)


def test_replicas_name_the_same():
    """Two replicas, the poison on the second alone: stopped, put back and named."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.loop.nonfinite.nonfinite_replicas"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    said = json.loads(ended.stdout.splitlines()[-1])
    assert said["same"]
    assert "gradients that are not finite: dense/kernel" in said["line"]
    assert f"'x' of examples {POISONED};" in said["line"]
    assert "not finite: the loss of examples 13;" in said["id_line"]


def _origins(loss, **data):
    """What a step with this loss of (net, batch) finds, on the arrays given."""
    trainer = make_trainer("eager", data=data or steps.arrays(64), loss=loss)
    return trainer.examine()


def test_the_first_forward_value_is_found_with_its_line():
    """The logarithm of zero: operation, file, line of code, inputs and output are said."""

    def loss(net):
        def of(batch):
            output = net(batch["x"], training=True)
            return tf.math.log(output - output)  # the line

        return of

    findings = _origins(loss)
    origin = findings.origins[0]
    assert (origin.operation, origin.backward) == ("Log", False)
    assert origin.site.file == __file__
    assert "# the line" in str(origin.site)
    assert "float64[8] from 0 to 0" in origin.inputs[0]
    assert "8 infinite" in origin.output
    assert findings.loss == -np.inf


def test_a_value_of_the_backward_pass_is_traced_to_its_forward_operation():
    """The square root's gradient at zero: finite forwards, infinite backwards."""

    def loss(net):
        def of(batch):
            output = net(batch["x"], training=True)
            return tf.sqrt(output * 0.0) + 1.0  # the line

        return of

    findings = _origins(loss)
    assert findings.loss == 1.0
    origin = findings.origins[0]
    assert origin.backward
    assert origin.forward[0] == "Sqrt"
    assert "# the line" in str(origin.forward[1])
    assert "in the gradient of Sqrt at " in str(origin)
    assert "dense/kernel" in findings.variables


def test_a_layer_and_its_variable_are_named():
    """A weight so large that its layer overflows: layer, product and weight are said."""
    trainer = make_trainer("eager", data=steps.arrays(64))
    trainer.state["net/out/kernel"].assign(tf.fill([4, 1], tf.constant(1e308, tf.float64)))
    trainer.state["net/norm/scale"].assign(tf.fill([4], tf.constant(1e10, tf.float64)))
    origin = trainer.examine().origins[0]
    assert origin.operation == "MatMul"
    assert origin.site.layer == "out"
    assert "net/out/kernel" in origin.variables
    assert origin.site.file.endswith("layers/dense.py")


def test_each_origin_is_noted_once_and_in_order():
    """An operation on what is already infinite is none; every name is text, of functions too."""
    watch = origins.Watch({})
    image = tf.fill([1, 3, 3, 1], 2e38)
    with watch.watching():
        large = tf.nn.conv2d(image, tf.ones([2, 2, 1, 1]), 1, "SAME")
        tf.reduce_sum(large * 2.0)
        tf.function(tf.math.log, autograph=False)(tf.zeros([2]))
    assert [origin.operation for origin in watch.origins] == ["Conv2D", "Log"]
    assert watch.origins[0].site.file == __file__
    tf.math.log(tf.zeros([2]))
    assert len(watch.origins) == 2


def test_a_variable_that_is_not_finite_is_named():
    """A NaN among the weights before the step is said before anything else."""
    trainer = make_trainer("eager", data=steps.arrays(64))
    trainer.state["net/out/bias"].assign([np.nan])
    findings = trainer.examine()
    assert findings.state == ("net/out/bias",)
    assert findings.origins[0].operation == "ReadVariableOp"
    assert findings.origins[0].variables == ("net/out/bias",)


def test_an_infinity_that_is_meant_is_no_finding():
    """What is infinite in a step that ends finite (a select, a padded maximum) is left out."""

    def loss(net):
        def of(batch):
            output = net(batch["x"], training=True)
            zero = output - tf.stop_gradient(output)
            masked = tf.where(zero > 0, tf.math.log(tf.stop_gradient(zero)), zero)
            pooled = pooling.max_pool2d(tf.reshape(output, [1, 2, 4, 1]), 3, 1, "SAME")
            bad = tf.math.sqrt(tf.where(batch["y"] > 90, -1.0, 1.0 + 0 * zero))
            return output**2 + masked + tf.reduce_sum(pooled) + bad

        return of

    data = steps.arrays(64)
    clean = _origins(loss, **data)
    assert clean.finite
    assert clean.origins == ()
    first = make_trainer("eager", data=data).feed.example_ids(0)[0]
    data["y"][first] = 100.0
    findings = _origins(loss, **data)
    assert not findings.finite
    assert [origin.operation for origin in findings.origins][:1] == ["Sqrt"]


def test_any_step_function_is_examined_and_put_back():
    """A step function of the user's own runs whole; nothing it changed stays changed."""
    weights = tf.Variable([1.0, -2.0])

    def step(batch):
        loss = tf.reduce_sum(tf.math.log(weights) * batch["x"][0, :2])
        weights.assign(weights * 0.5)
        return {"loss": loss}

    data = {"x": steps.arrays(64, dtype=np.float32)["x"]}
    trainer = loop.Trainer(
        step=step,
        feed=loop.feeds.Arrays(data, batch_size=4),
        state={"weights": weights},
        compile="eager",
    )
    findings = trainer.examine()
    assert findings.variables is None
    assert findings.origins[0].operation == "Log"
    assert weights.numpy().tolist() == [1.0, -2.0]
    with pytest.raises(loop.NonFiniteError, match="does not tell its gradients"):
        trainer.train(until=2)


def test_keras_statistics_are_put_back():
    """A Keras model's forward pass assigns its statistics; the examination undoes it."""
    model = keras.Sequential(
        [keras.layers.Dense(3), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    )
    model.build([None, 5])
    data = steps.arrays(32, dtype=np.float32)
    optimizer = loop.optimizers.SGD(0.1)

    def loss(batch):
        return (model(batch["x"], training=True)[:, 0] - batch["y"]) ** 2

    step = loop.GradientStep(loss, model.trainable_variables, optimizer)
    trainer = loop.Trainer(
        step=step,
        feed=loop.feeds.Arrays(data, batch_size=8),
        state={"model": model, "optimizer": optimizer},
        compile="eager",
    )
    before = steps.values(trainer.state)
    assert trainer.examine().finite
    assert steps.same(before, steps.values(trainer.state))
    model.layers[0].kernel.assign(np.full([5, 3], 3e38, np.float32))
    origin = trainer.examine().origins[0]
    assert origin.site.layer == model.layers[0].name


def test_a_read_by_handle_is_placed_at_its_reader():
    """Where a variable that is not finite is read by its handle, the site is the reader's line."""
    weight = tf.Variable([1.0, np.nan], name="weight")

    def step(batch):
        return {"loss": tf.reduce_sum(handles.read(weight)) * tf.reduce_sum(batch["x"])}

    feed = loop.feeds.Arrays({"x": np.ones(8, np.float32)}, batch_size=4, seed=1)
    trainer = loop.Trainer(step=step, feed=feed, state={"weight": weight}, compile="eager")
    origin = trainer.examine().origins[0]
    assert (origin.operation, origin.site.file) == ("ReadVariableOp", __file__)


def test_a_failing_examination_does_not_hide_the_failure():
    """Where the step cannot be computed again, the line says so and the step is still named."""

    class Unwilling:
        def gradients(self, _):
            raise ArithmeticError("no\nmore")

    feed = loop.feeds.Arrays(steps.arrays(64), batch_size=4, seed=1)
    examiner = examination.Examiner(
        Unwilling(), feed, {"w": tf.Variable(1.0)}, loop.distribute.single()
    )
    failure = examination.Failure(5, 1, {"loss": np.nan}, 1, None)
    line = failure.message(examiner)
    assert "could not be found (ArithmeticError: no)" in line
    assert "step 5 is not finite" in line
    assert "examples unknown" in line


def test_a_feed_that_cannot_tell_its_examples_does_not_hide_the_failure(caplog):
    """The step's own error is raised, with unknown examples; a line says why."""
    trainer = make_trainer("graph")
    step = poisoned_step(trainer.feed)

    def example_ids(step):
        raise KeyError(f"no ids of {step}")

    trainer.feed.example_ids = example_ids
    with pytest.raises(loop.NonFiniteError, match="examples unknown") as caught:
        trainer.train(until=100)
    assert caught.value.step == step
    assert "Arrays.example_ids raised KeyError" in caplog.text


def test_sparse_gradients_and_descriptions():
    """Slices count as gradients; a description gives counts and the range of the finite values."""
    table = tf.Variable(np.ones([5, 2], np.float32), name="table")
    other = tf.Variable(np.ones([2], np.float32), name="other")

    def loss(batch):
        rows = tf.gather(table, batch["row"])
        return tf.reduce_sum(tf.math.log(rows - 1), 1) + tf.reduce_sum(other**2)

    step = loop.GradientStep(loss, [table, other], loop.optimizers.SGD(0.1))
    feed = loop.feeds.Arrays({"row": np.arange(5)}, batch_size=3)
    trainer = loop.Trainer(step=step, feed=feed, state={"t": table, "o": other}, compile="eager")
    assert trainer.examine().variables == ("table",)
    text = origins.describe(np.array([[1.5, np.nan, np.inf], [-2.0, 0.0, -np.inf]], np.float32))
    assert text == "float32[2, 3] 1 NaN, 2 infinite, from -2 to 1.5"
    assert origins.describe(np.array([np.nan], np.float16)) == "float16[1] 1 NaN"
    assert origins.describe(np.arange(3)) == "int64[3]"
    assert not origins.all_finite(tf.constant([1.0, np.inf], tf.bfloat16).numpy())


def lookup_trainer(mode, wrong, *, pooled=tf.reduce_sum, gather=None, **options):
    """A bag of ids, an embedding and a linear layer; example 13's last id is `wrong`."""
    ids = np.random.default_rng(2).integers(0, 50, (40, 3)).astype(np.int32)
    ids[13, 2] = wrong
    embedding = loop.layers.Embedding(50, 4, name="e", seed=0, deviation=1.0)
    head = loop.layers.Dense(4, 3, name="head", seed=1)

    def loss(batch):
        rows = (gather or (lambda _, ids: embedding(ids)))(embedding.table, batch["ids"])
        return kernels.softmax_cross_entropy(batch["label"], head(pooled(rows, 1)))

    optimizer = loop.optimizers.Adam(0.05)
    variables = [embedding.table, *head.trainable_variables]
    step = loop.GradientStep(loss, variables, optimizer, accumulate=options.pop("accumulate", 1))
    label = (ids.sum(1) % 3).astype(np.int32)
    feed = loop.feeds.Arrays({"ids": ids, "label": label}, batch_size=8, seed=3)
    state = {"e": embedding, "head": head, "optimizer": optimizer}
    return loop.Trainer(
        step=step, feed=feed, state=state, compile=mode, steps_per_call=SLICE, **options
    )


def stops_at_13(trainer):
    """The line of the run's end, after a check that the step before is what is left."""
    at = next(s for s in range(9) if 13 in trainer.feed.example_ids(s))
    trainer.train(until=at)
    before = steps.values(trainer.state)
    with pytest.raises(loop.NonFiniteError) as raised:
        trainer.train(until=at + 3)
    assert raised.value.step == at
    assert steps.same(before, steps.values(trainer.state))
    return str(raised.value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("wrong", "accumulate"), [(50, 1), (-1, 2)], ids=["past the end", "negative, accumulated"]
)
def test_an_id_without_a_row_is_named(mode, wrong, accumulate):
    """Case 04: the run stops before the step and names the example, in every mode."""
    line = stops_at_13(lookup_trainer(mode, wrong, accumulate=accumulate))
    assert "not finite: the loss of examples 13;" in line
    assert "gradients that are not finite: e/table, head/kernel, head/bias" in line


@pytest.mark.parametrize("mode", MODES)
def test_an_id_without_a_row_stops_where_the_model_drops_it(mode):
    """The loss is finite, since nothing but good rows enters it; the gradient is not."""

    def first_two(rows, _):
        return rows[:, 0] * rows[:, 1]

    line = stops_at_13(lookup_trainer(mode, 50, pooled=first_two))
    assert "gradients that are not finite: e/table;" in line
    assert "not finite: the loss" not in line


def test_an_id_without_a_row_stops_a_users_own_gather_under_xla():
    """XLA would give it the last row and drop its gradient; TensorFlow's words name its place."""
    line = stops_at_13(lookup_trainer("xla", 50, gather=tf.gather))
    assert "= 50 is not in [0, 50)" in line


@pytest.mark.parametrize("mode", MODES)
def test_an_id_without_a_row_can_be_skipped(mode):
    """The batch that holds it changes nothing but the counter; the others train."""
    trainer = lookup_trainer(mode, 50, on_nonfinite="skip")
    finite = []
    trainer._writers.append(lambda rows: finite.extend(rows["finite"].tolist()))
    trainer.train(until=5)
    held = [13 in trainer.feed.example_ids(s) for s in range(5)]
    assert finite == [float(not bad) for bad in held]
    assert trainer.state["optimizer/update_count"] == 4
    assert all(np.isfinite(value).all() for value in steps.values(trainer.state).values())


def test_a_label_without_a_class_is_named():
    """The same line for a label as for an id."""
    head = loop.layers.Dense(5, 3, name="head", seed=1)
    optimizer = loop.optimizers.SGD(0.1)
    step = loop.GradientStep(
        lambda batch: kernels.softmax_cross_entropy(batch["label"], head(batch["x"])),
        head.trainable_variables,
        optimizer,
    )
    data = {"x": steps.arrays(16, dtype=np.float32)["x"], "label": np.arange(16) % 3}
    data["label"][6] = 3
    feed = loop.feeds.Arrays(data, batch_size=8, shuffle=False)
    trainer = loop.Trainer(step=step, feed=feed, state={"head": head, "o": optimizer})
    with pytest.raises(loop.NonFiniteError, match="not finite: the loss of examples 6;"):
        trainer.train(until=2)
    assert trainer.examine().examples == (6,)


def _stopped(tmp_path):
    trainer = make_trainer("eager", directory=tmp_path)
    with pytest.raises(loop.NonFiniteError):
        trainer.train(until=64)
    trainer.close()
    return tmp_path / f"nonfinite-{poisoned_step(trainer.feed):012d}.json"


def test_retention_keeps_the_state_that_a_replay_needs(tmp_path):
    """Later checkpoints do not push out the one that the file names; a run may go on."""
    path = _stopped(tmp_path)
    with make_trainer("eager", directory=tmp_path, on_nonfinite="skip", checkpoint_every=1) as on:
        on.train(until=poisoned_step(on.feed) + 7)
    kept = [found.step for found in checkpoint.scan(tmp_path)]
    assert len(kept) == 4
    assert kept[0] == replay_file.read(path).step


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda text: text[:40], "no replay file"),
        (lambda _: "[]", "format_version 1, found None"),
        (lambda text: text.replace('"format_version": 1', '"format_version": 2'), "found 2"),
        (lambda text: text.replace('"seed": 3', '"seed": "3"'), "'seed' is missing or of another"),
        (lambda text: text.replace("checkpoint-0", "../checkpoint-0"), "no name of a checkpoint"),
        (lambda _: "[" * 100_000, "no replay file"),
    ],
)
def test_a_damaged_replay_file_is_refused(tmp_path, damage, named):
    """One line says what is wrong with it."""
    path = _stopped(tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(replay_file.ReplayError, match=named) as raised:
        replay_file.read(path)
    assert "\n" not in str(raised.value)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    """The file's hash of the state is compared with what was restored."""
    path = _stopped(tmp_path)
    file = replay_file.read(path)
    trainer = make_trainer("eager")
    name = f"{file.state_sha256[:-1]}{'0' if file.state_sha256[-1] != '0' else '1'}"
    path.write_text(path.read_text().replace(file.state_sha256, name))
    with pytest.raises(replay_file.ReplayError, match="holds another state, of another run"):
        replay_file.restore(path, replay_file.read(path), trainer.state)
    with pytest.raises(replay_file.ReplayError, match="cannot be read: No such file"):
        replay_file.read(tmp_path / "none.json")
