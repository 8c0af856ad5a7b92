"""A trainer's history: every step and evaluation as arrays."""

import importlib.util
import json
import math

import numpy as np
import pytest
import tensorflow as tf

import loop
from loop.writers import history
from tests.loop import steps


def _trainer(directory=None, writers=()):
    net = steps.Net(dtype=tf.float32)
    optimizer = loop.optimizers.Momentum(0.05)
    step = loop.GradientStep(steps.squared_errors(net), net.trainable_variables, optimizer)
    feed = loop.feeds.Arrays(steps.arrays(dtype=np.float32), batch_size=8, seed=5)
    evaluation = loop.Evaluation(
        lambda batch: {"loss": (net(batch["x"], training=False) - batch["y"]) ** 2}, feed
    )
    return loop.Trainer(
        step=step,
        feed=feed,
        state=net,
        compile="graph",
        directory=directory,
        evaluation={"one": evaluation},
        evaluate_every=4,
        writers=writers,
    )


@pytest.mark.parametrize("directory", [False, True])
def test_it_is_every_row_to_the_bit(directory, tmp_path):
    """The columns are those that the writers were given; the evaluations have their own steps."""
    given = []
    trainer = _trainer(tmp_path if directory else None, [given.append])
    with trainer:
        assert trainer.history()["step"].shape == (0,)
        trainer.train(until=10)
        found = trainer.history()
    assert found.keys() == {"step", *given[0].columns}
    assert found["step"].dtype == np.int64
    assert found["step"].tolist() == list(range(1, 11))
    for name in given[0].columns:
        np.testing.assert_array_equal(found[name], np.concatenate([rows[name] for rows in given]))
    evaluated = trainer.history(evaluations=True)
    assert evaluated["step"].tolist() == [4, 8]
    assert evaluated["one/loss"].tolist() == [r["one/loss"] for _, r in trainer.evaluations]


def test_a_resumed_run_has_the_earlier_steps(tmp_path):
    """What another process has trained is read from the run's files."""
    with _trainer(tmp_path) as first:
        first.train(until=5)
        before = first.history()
    with _trainer(tmp_path) as second:
        np.testing.assert_array_equal(second.history()["loss"], before["loss"])
        second.train(until=9)
    found = second.history()
    assert found["step"].tolist() == list(range(1, 10))
    np.testing.assert_array_equal(found["loss"][:5], before["loss"])
    assert second.history(evaluations=True)["step"].tolist() == [4, 8]


def test_what_is_missing_or_not_finite_is_nan():
    """Null in a file, a name that a record lacks, and arrays such as a confusion matrix."""
    records = [
        {"step": 2, "a": None, "m": [[1, 2], [3, 4]]},
        {"step": 4, "a": 0.5, "b": math.inf, "m": [[5, 6], [7, 8]]},
        {"step": 6, "a": True},
    ]
    found = history.columns(records)
    np.testing.assert_array_equal(found["step"], [2, 4, 6])
    np.testing.assert_array_equal(found["a"], [np.nan, 0.5, 1])
    np.testing.assert_array_equal(found["b"], [np.nan, np.inf, np.nan])
    assert found["m"].shape == (3, 2, 2)
    np.testing.assert_array_equal(found["m"][1], [[5, 6], [7, 8]])
    assert np.isnan(found["m"][2]).all()


def test_as_a_frame_or_a_line_that_names_pandas():
    """With pandas the steps are the index; without it the error says what to do."""
    trainer = _trainer()
    trainer.train(until=4)
    if importlib.util.find_spec("pandas") is None:
        with pytest.raises(ModuleNotFoundError, match="needs pandas, which is not installed"):
            trainer.history(as_frame=True)
        return
    frame = trainer.history(as_frame=True)
    assert frame.index.tolist() == [1, 2, 3, 4]
    assert frame["loss"].tolist() == trainer.history()["loss"].tolist()


def test_the_lines_of_a_file_are_its_records(tmp_path):
    """One dict a line."""
    records = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None}]
    (tmp_path / "rows").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    assert history.read_lines(tmp_path / "rows") == records
