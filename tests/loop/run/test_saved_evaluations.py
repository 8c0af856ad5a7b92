"""Evaluations as state: what decides training survives the loss of its file."""

import math

import numpy as np
import pytest

import loop
from loop.run import saved_evaluations
from loop.writers.lines import JsonLines
from tests.loop import steps
from tests.loop.feeds import feed_runs

_VALUES = [
    (0, {"a": 0.1 + 0.2, "b": math.nan}),
    (4, {"a": math.inf, "b": 3}),
    (8, {"a": -math.inf}),
]


def _same(left, right):
    return str(left) == str(right)


def test_numbers_come_back_to_the_bit():
    """NaN and both infinities too; an array is no number."""
    given = [(2, {"confusion": [[1, 2]], "loss": 1 / 3}), *_VALUES]
    expected = [(2, {"loss": 1 / 3}), *_VALUES]
    assert _same(saved_evaluations.decoded(saved_evaluations.encoded(given)), expected)


def _file(path, evaluations):
    lines = JsonLines(path, step=8)
    lines.write([{"step": step, **results} for step, results in evaluations])
    return lines


def test_a_file_that_agrees_is_left_alone(tmp_path, caplog):
    """With its arrays, and with what was evaluated at the step after it was saved."""
    arrays = [(2, {"loss": 0.5, "confusion": [[1, 2]]}), (8, {"loss": 0.25}), (8, {"loss": 0.125})]
    lines = _file(tmp_path / "e.jsonl", arrays)
    saved = saved_evaluations.encoded(arrays[:2])
    assert saved_evaluations.taken_up(lines, saved, 8) == arrays
    assert not caplog.text
    assert not list(tmp_path.glob("*damaged*"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text(""),
        lambda path: path.write_text(path.read_text().replace("0.25", "0.75")),
        lambda path: path.write_text(path.read_text().replace("0.25", '"x"')),
        lambda path: path.write_text("[" * 100_000 + "\n" + path.read_text()),
        lambda path: path.write_text("".join(path.read_text().splitlines(True)[1:])),
    ],
)
def test_a_file_that_does_not_is_written_again(damage, tmp_path, caplog):
    """Lost, emptied, changed, no numbers, no lines: the checkpoint's are used, and it is said."""
    path = tmp_path / "e.jsonl"
    evaluations = [(4, {"loss": 0.5}), (8, {"loss": 0.25})]
    _file(path, evaluations).close()
    damage(path)
    there = path.exists() and path.stat().st_size > 0
    lines = JsonLines(path, step=8)
    found = saved_evaluations.taken_up(lines, saved_evaluations.encoded(evaluations), 8)
    lines.close()
    assert found == evaluations
    assert saved_evaluations.read_evaluations(path) == evaluations
    assert "does not hold the evaluations" in caplog.text or "is damaged" in caplog.text
    assert bool(list(tmp_path.glob("e.jsonl.damaged-*"))) == there


@pytest.mark.parametrize("lost", [True, False])
def test_decisions_survive_the_loss_of_the_file(lost, tmp_path):
    """Best checkpoints and the evaluations that they follow, with and without the file."""

    def trained(until, directory):
        data = feed_runs.data()
        values = loop.Evaluation(
            lambda batch: {"far": (batch["x"][:, 0] - batch["y"]) ** 2},
            loop.feeds.Arrays(data, batch_size=8),
        )
        keep = loop.BestCheckpoints("far", 1, every=3)
        with feed_runs.trainer(
            feed_runs.arrays_feed(),
            directory=directory,
            evaluation=values,
            evaluate_every=3,
            checkpoint_every=3,
            keep_best=keep,
        ) as run:
            run.train(until=until)
            return [*run.evaluations], steps.values(run.state)

    whole, expected = trained(12, tmp_path / "whole")
    trained(6, tmp_path / "cut")
    if lost:
        (tmp_path / "cut" / "evaluations.jsonl").unlink()
    found, state = trained(12, tmp_path / "cut")
    assert found == whole
    assert steps.same(state, expected)
    names = [sorted(p.name for p in (tmp_path / n).iterdir()) for n in ("whole", "cut")]
    assert names[0] == names[1]
    assert np.isfinite([results["far"] for _, results in found]).all()
