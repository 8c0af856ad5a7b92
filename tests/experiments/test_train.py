"""`python -m experiments.train` as its user runs it: in processes of its own."""

import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

_ROOT = pathlib.Path(__file__).parent.parent.parent
_COMMAND = [sys.executable, "-m", "experiments.train"]
_COMMON = ("--model=mlp", "--batch_size=32", "--dropout=0.3", "--log_every=50")
# TensorFlow's C++ libraries write these before anything can be told not to.
_TENSORFLOW_LINE = re.compile(r"WARNING: All log messages before absl|[IWE]\d{4} ")
_TIME_LIMIT = 300


def _start(directory, *flags):
    return subprocess.Popen(
        [*_COMMAND, *flags, f"--directory={directory}"],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def _finish(process):
    """Exit status, stdout, and stderr's lines that are not TensorFlow's."""
    out, err = process.communicate(timeout=_TIME_LIMIT)
    lines = [line for line in err.splitlines() if not _TENSORFLOW_LINE.match(line)]
    return process.returncode, out, lines


def _train(directory, *flags):
    status, out, errors = _finish(_start(directory, *_COMMON, *flags))
    assert status == 0, "\n".join(errors)
    return out, errors


def _result(directory):
    return json.loads((directory / "result.json").read_text())


def _cut(directory, mode):
    """77 steps, then on to 200 with other steps a call."""
    _train(directory, f"--compile={mode}", "--steps=77", "--steps_per_call=10")
    return _train(directory, f"--compile={mode}", "--steps=200", "--steps_per_call=33")


def _signalled(directory):
    """SIGTERM at the first line of metrics, then on to 200 steps."""
    flags = (*_COMMON, "--compile=graph", "--steps=200")
    # An evaluation at each step: time enough for the signal to arrive in the middle.
    process = _start(directory, *flags, "--eval_every=1")
    metrics, deadline = directory / "metrics.jsonl", time.monotonic() + _TIME_LIMIT
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    stopped = _finish(process), _result(directory)
    _train(directory, "--compile=graph", "--steps=200")
    return stopped


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All long runs, two processes at a time; name -> (directory, what the runner returned)."""
    root = tmp_path_factory.mktemp("runs")
    flagfile = f"--flagfile={root / 'graph' / 'flags.txt'}"
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        futures = {
            "xla": pool.submit(_train, root / "xla", "--compile=xla", "--steps=200"),
            "graph": pool.submit(
                _train, root / "graph", "--compile=graph", "--steps=200", "--eval_every=100"
            ),
            "xla cut": pool.submit(_cut, root / "xla cut", "xla"),
            "graph cut": pool.submit(_cut, root / "graph cut", "graph"),
            "signalled": pool.submit(_signalled, root / "signalled"),
            "seed": pool.submit(
                _train, root / "seed", "--compile=graph", "--steps=200", "--seed=1"
            ),
        }
        futures["graph"].result()
        futures["again"] = pool.submit(
            lambda: _finish(_start(root / "again", flagfile)),
        )
        return {name: (root / name, future.result()) for name, future in futures.items()}


def test_result_says_all_that_is_promised(runs):
    """result.json has the documented fields, and they are of this run."""
    directory, (out, _) = runs["graph"]
    result = _result(directory)
    assert result["step"] == 200
    assert result["compile"] == "graph"
    assert result["traces"] == 1
    assert result["steps_per_call"] >= 1
    assert 0 < result["train_loss"] < 1
    assert 0 < result["test_loss"] < 0.5
    assert 0.95 < result["test_accuracy"] <= 1
    assert re.fullmatch("[0-9a-f]{64}", result["state_sha256"])
    assert result["examples_per_second"] > 0
    assert set(result["seconds"]) == {"compile", "input", "train", "evaluate", "checkpoint"}
    assert all(seconds > 0 for seconds in result["seconds"].values())
    assert 1e8 < result["peak_rss_bytes"] < 1e11
    assert {"python", "tensorflow", "keras", "numpy", "tapestep"} <= set(result["versions"])
    assert f"{result['test_accuracy']:.4g}" in out
    assert f"{result['train_loss']:.4g}" in out
    assert str(directory.name) in out


def test_metrics_have_a_line_a_step(runs):
    """Steps 1 to 200 in order, also where a run was cut; the last loss is the result's."""
    for name in ("graph", "graph cut", "xla cut", "signalled"):
        directory, _ = runs[name]
        lines = [
            json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()
        ]
        assert [line["step"] for line in lines] == list(range(1, 201))
        assert {"loss", "learning_rate", "gradient_norm", "accuracy"} <= set(lines[0])
        assert lines[-1]["loss"] == _result(directory)["train_loss"]


def test_each_step_is_evaluated_once(runs):
    """The end's evaluation is the one of its boundary, in a resume too: one line a step."""
    directory, _ = runs["graph"]
    path = directory / "evaluations.jsonl"
    before = path.read_text()
    lines = [json.loads(line) for line in before.splitlines()]
    assert [line["step"] for line in lines] == [100, 200]
    assert lines[-1]["accuracy"] == _result(directory)["test_accuracy"]
    shutil.copytree(directory, directory.with_name("ended"))
    out, _ = _train(directory.with_name("ended"), "--compile=graph", "--steps=200")
    assert (directory.with_name("ended") / "evaluations.jsonl").read_text() == before
    assert "done" in out


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_a_cut_run_is_the_uncut_one(runs, mode):
    """200 steps, and 77 resumed to 200 with other steps a call: one state, to the last bit."""
    whole, cut = (_result(runs[name][0]) for name in (mode, f"{mode} cut"))
    assert cut["state_sha256"] == whole["state_sha256"]
    assert cut["step"] == whole["step"] == 200
    assert cut["test_loss"] == whole["test_loss"]
    assert cut["steps_per_call"] != whole["steps_per_call"]


def test_the_flagfile_reproduces_the_run(runs):
    """The saved flags alone, in another directory, give the same state: one seed, one run."""
    directory, (status, _, errors) = runs["again"]
    assert status == 0, errors
    assert _result(directory)["state_sha256"] == _result(runs["graph"][0])["state_sha256"]
    flags = [(runs[name][0] / "flags.txt").read_text().splitlines() for name in ("graph", "again")]
    assert [flag for flag in flags[0] if "--directory" not in flag] == [
        flag for flag in flags[1] if "--directory" not in flag
    ]


def test_another_seed_is_another_run(runs):
    """Weights, order and noise follow the seed."""
    results = [_result(runs[name][0]) for name in ("graph", "seed", "xla")]
    assert results[0]["state_sha256"] != results[1]["state_sha256"]
    assert abs(results[0]["train_loss"] - results[2]["train_loss"]) < 0.05


def test_sigterm_saves_and_the_resume_is_exact(runs):
    """Status 143, a result that says so, a checkpoint of that step; then the uncut run's state."""
    directory, ((status, _, _), stopped) = runs["signalled"]
    assert status == 143
    assert stopped["interrupted"] == signal.SIGTERM
    assert 1 <= stopped["step"] < 200
    result = _result(directory)
    assert result["interrupted"] is None
    assert result["state_sha256"] == _result(runs["graph"][0])["state_sha256"]


def test_progress_goes_to_stderr_as_plain_lines(runs):
    """Without a terminal there is a line at each --log_every, and no escape codes."""
    out, errors = runs["graph"][1]
    shown = [line for line in errors if line.startswith("step ")]
    assert [line.split()[1] for line in shown] == ["50/200", "100/200", "150/200", "200/200"]
    assert "\x1b" not in "".join([out, *errors])


def test_a_run_that_is_not_finite_fails_with_its_step(tmp_path):
    """Status 1 and one line that names step, seed and example ids."""
    status, _, errors = _finish(
        _start(
            tmp_path / "run",
            *_COMMON,
            "--compile=graph",
            "--steps=50",
            "--optimizer=sgd",
            "--learning_rate=1e30",
        )
    )
    assert status == 1
    assert not [line for line in errors if "Traceback" in line]
    (line,) = [line for line in errors if line.startswith("error: ")]
    found = re.search(r"step (\d+) is not finite .*seed 0, examples ((\d+, ){31}\d+)", line)
    assert found
    assert int(found[1]) < 50


def test_a_changed_setting_is_refused(runs):
    """Another learning rate in a run's directory: status 2, one line, nothing changed."""
    directory, _ = runs["graph"]
    before = _result(directory)
    status, _, errors = _finish(
        _start(directory, *_COMMON, "--compile=graph", "--steps=300", "--learning_rate=0.01")
    )
    assert status == 2
    (line,) = [line for line in errors if line.startswith("error: ")]
    assert "learning_rate" in line
    assert "--allow_change" in line
    assert _result(directory) == before
