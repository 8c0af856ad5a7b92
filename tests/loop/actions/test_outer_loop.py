"""Early stopping, reduce-on-plateau and best checkpoints, against Keras's callbacks."""

import json
import math
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import loop
from loop import checkpoint, optimizers, schedules
from loop.actions.best import BestCheckpoints
from loop.actions.early_stopping import EarlyStopping
from loop.actions.monitor import Monitor, read_evaluations
from loop.actions.plateau import ReduceOnPlateau
from loop.checkpoint import CheckpointError
from loop.feeds import Arrays
from tests.loop import steps


def _histories(mode, count=60):
    """Random numbers that get better and then wander, some with a NaN."""
    rng = np.random.default_rng(7)
    for number in range(count):
        values = 2.0 / np.arange(1, 26) + rng.normal(0, 0.15, 25)
        values *= 1 if mode == "min" else -1
        if number % 5 == 0:
            values[rng.integers(25)] = np.nan
        yield [(10 * (i + 1), {"loss": float(value)}) for i, value in enumerate(values)]


@pytest.mark.parametrize("patience", [1, 3])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_early_stopping_stops_where_keras_does(mode, patience):
    """On 60 random histories it stops after the same evaluation as Keras's callback, or never."""
    stopped = set()
    for history in _histories(mode):
        theirs = keras.callbacks.EarlyStopping("loss", patience=patience, mode=mode, min_delta=0.01)
        theirs.set_model(types.SimpleNamespace(stop_training=False))
        theirs.on_train_begin()
        ours = EarlyStopping("loss", patience, mode, every=10, min_delta=0.01)
        first_nan = math.isnan(history[0][1]["loss"])
        for number, (_, results) in enumerate(history):
            theirs.on_epoch_end(number, results)
            reason = ours.reason(history[: number + 1])
            if first_nan and patience == 1 and number == 0:
                continue  # Keras never stops after the first epoch.
            assert (reason is not None) == theirs.model.stop_training
            if reason:
                stopped.add(number)
                break
    assert len(stopped) > 3


@pytest.mark.parametrize("cooldown", [0, 2])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_plateaus_are_kerass(mode, cooldown):
    """On 60 random histories the rate is that of Keras's ReduceLROnPlateau after each one."""
    reduced = set()
    for history in _histories(mode):
        optimizer = keras.optimizers.SGD(1.0)
        theirs = keras.callbacks.ReduceLROnPlateau(
            "loss", factor=0.5, patience=2, mode=mode, min_delta=0.01, cooldown=cooldown
        )
        theirs.set_model(types.SimpleNamespace(optimizer=optimizer))
        theirs.on_train_begin()
        ours = ReduceOnPlateau(
            "loss",
            tf.Variable(1.0),
            factor=0.5,
            patience=2,
            mode=mode,
            every=10,
            min_delta=0.01,
            cooldown=cooldown,
        )
        for number, (_, results) in enumerate(history):
            theirs.on_epoch_end(number, dict(results))
            done = ours.reductions(history[: number + 1])
            assert 0.5**done == float(optimizer.learning_rate.numpy())
        reduced.add(done)
    assert len(reduced) > 2


def test_only_evaluations_at_the_interval_count():
    """One made because a run was interrupted, or made twice, changes no decision."""
    monitor = Monitor("loss", every=10)
    evaluations = [(10, {"loss": 3.0}), (13, {"loss": 1.0}), (20, {"loss": 2.0})]
    assert monitor.history([*evaluations, (20, {"loss": 2.5})]) == [(10, 3.0), (20, 2.5)]
    with pytest.raises(ValueError, match="step 10 has no number 'accuracy', it has loss"):
        Monitor("accuracy", every=10).history(evaluations)
    best = BestCheckpoints("loss", 2, every=10)
    assert best.steps([*evaluations, (30, {"loss": 2.0}), (40, {"loss": math.nan})]) == [20, 30]
    assert BestCheckpoints("loss", 9, every=10).steps([(10, {"loss": math.nan})]) == []
    assert BestCheckpoints("loss", 1, "max", every=10).steps(evaluations) == [10]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EarlyStopping("loss", 0), "patience must be at least 1, got 0"),
        (lambda: EarlyStopping("loss", 1, "low"), "mode must be 'min' or 'max', got 'low'"),
        (lambda: Monitor("loss", every=0), "every must be at least 1, got 0"),
        (lambda: Monitor("loss", min_delta=-1), "min_delta must be at least 0, got -1"),
        (lambda: BestCheckpoints("loss", 0, every=1), "count must be at least 1, got 0"),
        (lambda: ReduceOnPlateau("loss", None, factor=1.0), r"factor must be in \(0, 1\), got 1.0"),
        (lambda: ReduceOnPlateau("loss", None, patience=0), "patience must be at least 1"),
        (lambda: ReduceOnPlateau("loss", None, smallest=1.0), "smallest must be in"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    """Each names the number and its range."""
    with pytest.raises(ValueError, match=message):
        make()


def _trainer(directory, losses, *, patience=3, keep=1, **options):
    """A run whose evaluation gives `losses[step / 5]`, by a variable that the step counts."""
    weight = tf.Variable([1.0, 2.0], name="weight")
    scale = tf.Variable(1.0, name="scale")
    table = tf.constant(losses, tf.float32)
    count = tf.Variable(0, name="count")
    optimizer = optimizers.SGD(schedules.with_scale(schedules.constant(0.5), scale))
    inner = loop.GradientStep(
        lambda batch: tf.reduce_sum(batch["x"] * weight, -1), [weight], optimizer
    )

    def step(batch):
        count.assign_add(1)
        return inner(batch)

    def evaluated(batch):
        # The loss is read from the table, and depends on the step through the counted variable.
        return {"loss": tf.zeros_like(batch["x"][:, 0]) + table[count // 5]}

    data = {"x": steps.arrays(20, inputs=2, dtype=np.float32)["x"]}
    rates = []
    trainer = loop.Trainer(
        step=step,
        feed=Arrays(data, batch_size=4, seed=1),
        state={"weight": weight, "optimizer": optimizer, "scale": scale, "count": count},
        directory=loop.RunDirectory(directory, keep=keep),
        compile="graph",
        evaluation=loop.Evaluation(evaluated, Arrays(data, batch_size=8)),
        evaluate_every=5,
        actions=[
            loop.Every(5, EarlyStopping("loss", patience, every=5), at_start=True),
            loop.Every(5, ReduceOnPlateau("loss", scale, patience=1, factor=0.5, every=5)),
        ],
        keep_best=BestCheckpoints("loss", 2, every=5),
        writers=[lambda rows: rates.extend(rows["learning_rate"].tolist())],
        **options,
    )
    return trainer, rates


_LOSSES = [9.0, 5.0, 4.0, 6.0, 3.0, 7.0, 8.0, 9.0, 1.0, 1.0]


def test_a_run_stops_reduces_and_keeps_its_best(tmp_path):
    """Losses 5 4 6 3 7 8 9: the best is of step 20, the stop at 35, the rate halved where worse."""
    trainer, rates = _trainer(tmp_path, _LOSSES)
    with trainer:
        trainer.train(until=200)
    assert int(trainer.global_step) == 35
    assert trainer.stop_reason == (
        "loss has had no better value than 3 of step 20 in 3 evaluations"
    )
    kept = [found.step for found in checkpoint.scan(tmp_path)]
    assert kept == [10, 20, 35]  # the two best, and the last one
    np.testing.assert_array_equal(rates[:15], 0.5)
    np.testing.assert_array_equal(rates[15:25], 0.25)
    np.testing.assert_array_equal(rates[25:30], 0.125)


@pytest.mark.parametrize("cut", [7, 20, 26])
def test_a_resumed_run_decides_as_one_that_was_never_cut(tmp_path, cut):
    """Cut between and at evaluations, even evaluated there, it ends in the same state and files."""
    whole, _ = _trainer(tmp_path / "whole", _LOSSES)
    with whole:
        whole.train(until=200)
    first, _ = _trainer(tmp_path / "cut", _LOSSES)
    with first:
        first.train(until=cut)
        first.evaluate()
    second, _ = _trainer(tmp_path / "cut", _LOSSES)
    with second:
        second.open()
        assert len(second.evaluations) == -(-cut // 5)  # One of a step is held once.
        second.train(until=200)
    assert second.stop_reason == whole.stop_reason
    assert steps.same(steps.values(whole.state), steps.values(second.state))
    third, _ = _trainer(tmp_path / "cut", _LOSSES)
    with third:
        third.train(until=200)
    assert int(third.global_step) == 35
    names = [[c.step for c in checkpoint.scan(tmp_path / name)] for name in ("whole", "cut")]
    assert names[0] == names[1]


def test_evaluations_are_read_as_they_were_written(tmp_path):
    """Floats come back to the bit, a null as NaN, and a foreign line is named."""
    path = tmp_path / "evaluations.jsonl"
    assert read_evaluations(path) == []
    value = 0.1 + 0.2
    path.write_text(json.dumps({"step": 3, "loss": value}) + '\n{"step": 4, "loss": null}\n')
    (step, first), (_, second) = read_evaluations(path)
    assert (step, first) == (3, {"loss": value})
    assert math.isnan(second["loss"])
    for line in ('{"loss": 1}', '{"step": 3, "loss": "x"}', "[" * 100_000, '"'):
        path.write_text(line + "\n")
        with pytest.raises(CheckpointError, match=r"line 1: expected an evaluation .*found '"):
            read_evaluations(path)
