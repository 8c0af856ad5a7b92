"""The flags of the outer loop, through the trainer's own main."""

import json

import numpy as np
import pytest

from experiments import flags, train
from experiments.errors import InputError
from loop import checkpoint
from loop.monitor import read_evaluations

_SMALL = ["train", "--model=mlp", "--batch_size=64", "--compile=graph", "--log_every=1000"]


def _run(directory, *arguments):
    """Trains in this process: exit status, and what it left."""
    status = train.main([*_SMALL, f"--directory={directory}", *arguments])
    return status, json.loads((directory / "result.json").read_text())


def test_a_run_with_everything_stops_early_and_stays_stopped(tmp_path):
    """Averages, plateau, best checkpoints and early stopping in one run; run again, it is over."""
    options = [
        *("--ema=0.9", "--lookahead=3", "--eval_every=4", "--monitor=accuracy", "--steps=400"),
        *("--early_stop=3", "--keep_best=2", "--keep_last=1", "--plateau=1"),
        *("--plateau_factor=0.5", "--precision=mixed_bfloat16"),
    ]
    status, result = _run(tmp_path, *options)
    assert status == 0
    assert result["stopped"].startswith("accuracy has had no better value than")
    assert 12 < result["step"] < 400
    evaluations = read_evaluations(tmp_path / "evaluations.jsonl")
    accuracy = {step: found["accuracy"] for step, found in evaluations}
    best = sorted(accuracy, key=lambda step: (-accuracy[step], step))[:2]
    kept = [found.step for found in checkpoint.scan(tmp_path)]
    assert kept == sorted({*best, result["step"]})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = np.array([row["learning_rate"] for row in rows])
    assert rates[-1] < rates[0]
    np.testing.assert_array_equal(np.log2(rates[0] / rates) % 1, 0)
    status, again = _run(tmp_path, *options)
    assert (status, again["step"]) == (0, result["step"])
    assert again["state_sha256"] == result["state_sha256"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--early_stop=2"], "--early_stop: expected --eval_every beside it"),
        (["--plateau=2"], "--plateau: expected --eval_every beside it"),
        (["--keep_best=2"], "--keep_best: expected --eval_every beside it"),
        (["--monitor=accuracy"], "--monitor: expected --early_stop, --keep_best or --plateau"),
        (["--plateau_factor=0.5"], "--plateau_factor: expected --plateau beside it"),
        (["--ema=1"], "--ema: expected a number from 0 below 1"),
        (["--keep_last=0"], "--keep_last: expected a whole number from 1"),
    ],
)
def test_flags_without_a_meaning_are_refused(arguments, named):
    """A decision needs evaluations, an option its decision."""
    with pytest.raises(InputError) as raised:
        flags.parse(["train", *arguments])
    assert str(raised.value).startswith(named)
