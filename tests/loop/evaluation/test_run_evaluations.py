"""Several evaluations of one run, by name: their results, files, curves and decisions."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

import loop
from loop import checkpoint, schedules
from loop.feeds import Arrays
from tests.loop import steps

_SIZES = {"easy": 37, "hard": 22}


def _data():
    return {
        name: steps.arrays(size, dtype=np.float32, seed=seed)
        for seed, (name, size) in enumerate(_SIZES.items(), 3)
    }


def _evaluations(net):
    def function(batch):
        error = net(batch["x"], training=False) - batch["y"]
        return {"loss": error**2, "absolute": tf.abs(error)}

    return {
        name: loop.Evaluation(function, Arrays(data, batch_size=8))
        for name, data in _data().items()
    }


def _trainer(*, mode="graph", alone=None, averages=(), **options):
    net = steps.Net(dropout=0.2, dtype=tf.float32)
    step = loop.GradientStep(
        steps.squared_errors(net),
        net.trainable_variables,
        options.pop("optimizer", None) or loop.optimizers.Momentum(0.01),
        after_update=averages,
    )
    feed = Arrays(steps.arrays(dtype=np.float32), batch_size=8, seed=5)
    evaluations = _evaluations(net)
    trainer = loop.Trainer(
        step=step,
        feed=feed,
        state={"net": net, **options.pop("more", {})},
        compile=mode,
        evaluation=evaluations[alone] if alone else evaluations,
        **options,
    )
    return trainer, net


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_each_has_the_results_of_its_own_data_under_its_name(mode):
    """`name/metric` is NumPy's mean over that data set, on the averages where these are asked."""
    averages = loop.WeightEMA(0.9)
    trainer, net = _trainer(mode=mode, averages=[averages], evaluation_weights=averages)
    trainer.train(until=9)
    found = trainer.evaluate()
    expected = {}
    with trainer.evaluated_weights():
        for name, data in _data().items():
            error = net(data["x"], training=False).numpy().astype(np.float64) - data["y"]
            expected[f"{name}/loss"] = (error**2).mean()
            expected[f"{name}/absolute"] = np.abs(error).mean()
    assert list(found) == list(expected)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-5)
    assert len(set(found.values())) == 4
    assert {n: c.traces for n, c in trainer._evaluations.compiled.items()} == dict.fromkeys(
        _SIZES, 0 if mode == "eager" else 1
    )


def test_one_alone_keeps_its_names():
    """A single evaluation is what it was, and equal to the one of several."""
    several, alone = _trainer()[0], _trainer(alone="hard")[0]
    several.train(until=5)
    alone.train(until=5)
    found = alone.evaluate()
    assert list(found) == ["loss", "absolute"]
    assert {f"hard/{name}": value for name, value in found.items()}.items() <= (
        several.evaluate().items()
    )


def test_files_curves_and_decisions_follow_one_of_them(tmp_path):
    """Early stop, best and plateau take `hard/loss`; the run's file and TensorBoard have all."""
    rows = []
    scale = tf.Variable(1.0, name="scale")
    rate = schedules.with_scale(schedules.constant(0.05), scale)
    trainer, _ = _trainer(
        optimizer=loop.optimizers.Momentum(rate),
        more={"scale": scale},
        directory=loop.RunDirectory(tmp_path, keep=1),
        evaluate_every=4,
        actions=[
            loop.Every(4, loop.EarlyStopping("hard/loss", 3, every=4), at_start=True),
            loop.Every(4, loop.ReduceOnPlateau("hard/loss", scale, patience=1, every=4)),
        ],
        keep_best=loop.BestCheckpoints("hard/loss", 1, every=4),
        writers=[loop.TensorBoard(tmp_path), lambda found: rows.extend(found)],
    )
    with trainer:
        trainer.train(until=400)
        lines = [
            json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()
        ]
        assert [(line.pop("step"), line) for line in lines] == trainer.evaluations
        history = [(step, found["hard/loss"]) for step, found in trainer.evaluations]
        assert history[-1][0] == int(trainer.global_step) < 400
    best = min(value for _, value in history)
    best_step = next(step for step, value in history if value == best)
    assert trainer.stop_reason.startswith(f"hard/loss has had no better value than {best:.6g}")
    assert [found.step for found in checkpoint.scan(tmp_path)] == [best_step, history[-1][0]]
    assert float(scale) < 1
    reader = event_accumulator.EventAccumulator(str(tmp_path), {"scalars": 0})
    reader.Reload()
    assert {f"{name}/{m}" for name in _SIZES for m in ("loss", "absolute")} <= set(
        reader.Tags()["scalars"]
    )
    curve = {event.step: event.value for event in reader.Scalars("hard/loss")}
    assert curve == {step: np.float32(value) for step, value in history}
    assert [event.step for event in reader.Scalars("loss")] == [row["step"] for row in rows]


def test_a_resume_knows_them(tmp_path):
    """The results of before are read back, and one that is made again is kept once."""
    with _trainer(directory=tmp_path)[0] as trainer:
        trainer.train(until=3)
        found = trainer.evaluate()
    with _trainer(directory=tmp_path)[0] as resumed:
        resumed.open()
        assert resumed.evaluations == [(3, found)]
        assert resumed.evaluate() == found
        assert resumed.evaluations == [(3, found)]


@pytest.mark.parametrize(
    ("evaluation", "error", "message"),
    [
        ({}, ValueError, "holds no evaluation"),
        ({"a/b": None}, ValueError, "named 'a/b', expected a name without a slash"),
        ({"": None}, ValueError, "named '', expected a name"),
        ({"easy": print}, TypeError, r"evaluation\['easy'\] expected a loop.Evaluation.*found bui"),
        (print, TypeError, "evaluation expected a loop.Evaluation, or several by name, found bui"),
    ],
)
def test_what_is_no_evaluation_is_refused(evaluation, error, message):
    """In one line, when the trainer is made."""
    with pytest.raises(error, match=message):
        loop.Trainer(
            step=lambda _: {},
            feed=Arrays(steps.arrays(), batch_size=8),
            evaluation=evaluation,
        )


def test_a_metric_named_as_the_lines_number_is_refused():
    """Its value would take the step's place in the run's file."""
    trainer, _ = _trainer(alone="easy")
    function = trainer._evaluations._evaluations[""].function
    trainer._evaluations._evaluations[""].function = lambda batch: {"step": function(batch)["loss"]}
    with pytest.raises(ValueError, match="'step' is the number of a line"):
        trainer.evaluate()
    assert trainer.evaluations == []
