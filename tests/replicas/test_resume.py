"""Every kind of step resumes to the bit, or is refused by name; on one replica and on two."""

import json
import subprocess
import sys

import pytest

from tests.replicas import resume_runs

# What cannot be exact. All else must be.
_NO_REGIONS = "this step function has none: wrap what has no collective"
_METRIC = "'metric/running/count' have another value on each of the 2 replicas"
_LSTM = "'sequential/lstm/states/1' would be of other examples on each of the 2 replicas"
_REFUSED = {
    (2, "gan/xla"): _NO_REGIONS,
    (2, "custom_step/xla"): _NO_REGIONS,
    (2, "keras_metric/graph"): _METRIC,
    (2, "keras_metric/xla"): _METRIC,
    (2, "stateful_lstm/graph"): _LSTM,
    (2, "stateful_lstm/xla"): _LSTM,
}
_CELLS = [f"{kind}/{mode}" for kind in resume_runs.KINDS for mode in ("graph", "xla")]


@pytest.fixture(scope="module", params=[1, 2])
def found(request, tmp_path_factory):
    """The number of replicas, and the outcome of each kind of step in each mode."""
    file = tmp_path_factory.mktemp("resume") / "found.json"
    command = [sys.executable, "-m", "tests.replicas.resume_runs", str(request.param), str(file)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    return request.param, json.loads(file.read_text())


@pytest.mark.parametrize("cell", _CELLS)
def test_a_resume_is_exact_or_refused(found, cell):
    """The state of a run that was cut equals that of one that was not, on every replica."""
    count, outcomes = found
    assert _REFUSED.get((count, cell), "exact") in outcomes[cell]
