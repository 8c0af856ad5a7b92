"""The race: the same weights and data for all, honest ratios, a real run of two contenders."""

import json
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from experiments.benchmark import process, referee, workloads
from experiments.benchmark.contenders import floor, table
from experiments.benchmark.measurement import Options, whole
from experiments.benchmark.measurements import steps as race
from experiments.benchmark.process import Process, Ready
from experiments.entry import tensorflow_import

ROOT = pathlib.Path(__file__).resolve().parents[3]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments.benchmark", *arguments]
    # As a user has it: the tests' own level lets TensorFlow's banner through.
    env = {k: v for k, v in os.environ.items() if k != tensorflow_import.LEVEL}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", ["tiny", "mlp", "cnn", "resnet20", "transformer"])
def test_weights_and_data_follow_from_the_seed(name: str) -> None:
    """Two processes that generate them get the same, and another seed gives others."""
    workload = workloads.WORKLOADS[name]
    first, again = (workloads.initial_weights(workload) for _ in range(2))
    other = workloads.initial_weights(workload, seed=1)
    assert list(first) == list(again)
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not np.array_equal(first["head/kernel"], other["head/kernel"])
    x, y = workloads.examples(workload)
    assert x.shape == (workloads.DATA_BATCHES * workload.batch, *workload.example_shape)
    assert len(y) == len(x)
    assert np.array_equal(x, workloads.examples(workload)[0])


def test_resnet20_has_twenty_layers() -> None:
    """19 convolutions and a dense layer, 0.27 million weights (He et al. 2015, table 6)."""
    weights = workloads.initial_weights(workloads.WORKLOADS["resnet20"])
    kernels = [value for name, value in weights.items() if name.endswith("/kernel")]
    assert len(kernels) == 20
    assert 0.265e6 < sum(value.size for value in weights.values()) < 0.275e6


def test_the_floor_counts_every_product() -> None:
    """An MLP's multiply-adds: forward, weights' gradients, inputs' gradients but the first's."""
    workload = workloads.WORKLOADS["mlp"]
    forward = [784 * 512, 512 * 256, 256 * 10]
    expected = 128 * (2 * sum(forward) + sum(forward[1:]))
    assert sum(product.operations for product in floor.products_of(workload)) == expected


def test_the_floors_convolution_forms_agree() -> None:
    """OneDNN's three operations and the kernel's gradients compute the same products."""
    from kernels import target

    generator = np.random.default_rng(3)
    for product in floor.convolution((2, 6, 8, 3), 4, 2):
        left, right = (
            generator.standard_normal(shape).astype(np.float32) for shape in product.operands
        )
        plain = floor.compute(product, left, right).numpy()
        with target.tracing_for("xla"):
            by_kernel = floor.compute(product, left, right).numpy()
        np.testing.assert_allclose(by_kernel, plain, rtol=1e-4, atol=1e-4, err_msg=product.kind)


def test_losses_that_part_are_seen() -> None:
    """A contender that computes something else is further from the median than the tolerance."""
    losses = {"bare": [2.0, 1.5], "tapestep": [2.0, 1.5005], "keras_best": [2.0, 1.6]}
    difference = referee.agreement({**losses, "floor": []})
    assert set(difference) == {"bare", "tapestep", "keras_best"}
    assert difference["tapestep"] <= table.LOSS_TOLERANCE
    assert difference["keras_best"] > table.LOSS_TOLERANCE


def _ready(**changes: Any) -> Ready:
    return Ready(1, 1, [], 10.0, 16, "", "", {})._replace(**changes)


def test_steps_a_round_are_whole_calls() -> None:
    """A round never cuts a call, and a slow contender still runs one."""
    assert referee.steps_a_round(_ready(), 1.0) == 96
    assert referee.steps_a_round(_ready(), 0.001) == 16
    # Ours makes calls of a second at most: 100 steps of 10 ms.
    assert referee.steps_a_round(_ready(steps_per_call=256, compile="xla"), 2.0) == 200
    assert referee.steps_a_round(_ready(steps_per_call=256, compile="xla"), 0.1) == 100


def test_only_another_epsilon_widens_the_tolerance() -> None:
    """What another framework's Adam may part by is refused of one with TensorFlow's formula."""
    losses = {"tapestep": [2.0], "jax_step": [2.01], "jax_scan": [2.01], "torch_eager": [2.01]}
    assert referee.agreement(losses)["tapestep"] == 0.0
    assert referee.check("mlp", losses)["agree"]
    assert not referee.check("mlp", {**losses, "bare": [2.01]})["agree"]
    assert not referee.check("mlp", {**losses, "jax_step": [2.02]})["agree"]


def test_bfloat16_has_a_wider_tolerance_and_no_say() -> None:
    """Its losses are off by a rounding, which moves nobody else's difference."""
    losses = {"tapestep": [2.0], "bare": [2.0], race.OURS_BFLOAT16: [2.02]}
    difference = referee.agreement(losses)
    assert difference["tapestep"] == difference["bare"] == 0.0
    assert table.LOSS_TOLERANCE < difference[race.OURS_BFLOAT16] < table.BFLOAT16_TOLERANCE
    assert referee.check("cnn", losses)["agree"]
    assert not referee.check("cnn", {**losses, "bare": [2.1]})["agree"]
    assert not referee.check("cnn", {**losses, race.OURS_BFLOAT16: [2.1]})["agree"]


# Answers as a contender does: ready after argv[1] seconds, each round after argv[2].
CONTENDER = """
import json, sys, time
time.sleep(float(sys.argv[1]))
ready = dict(compile_s=1, losses=[2.0], ms=float(sys.argv[3]), steps_per_call=2, compile="",
             note="", versions={})
print(json.dumps({"ready": ready}), flush=True)
for line in sys.stdin:
    time.sleep(float(sys.argv[2]))
    print(json.dumps({"ms": 4.0, "peak_rss_bytes": 7, "measured": {}}), flush=True)
"""


def _stand_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, *, start: float, turn: float, ms: float
) -> Callable[[], Process]:
    """Starts a real process that only pretends to train."""
    script = tmp_path / "contender"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{CONTENDER}' {start} {turn} {ms}\n")
    script.chmod(0o755)
    monkeypatch.setattr(process.install_contenders, "interpreter", lambda _: script)
    return lambda: Process("jax_step", "tiny", tmp_path)


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        ({"start": 60.0, "turn": 0.0, "ms": 4.0}, "not ready within 1 s"),
        ({"start": 0.0, "turn": 60.0, "ms": 4.0}, "a round was not over within 1 s"),
        ({"start": 0.0, "turn": 0.0, "ms": 4000.0}, "its rounds need 40 s of 1"),
    ],
)
def test_a_hopeless_contender_is_a_row_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    times: dict[str, float],
    reason: str,
) -> None:
    """Whether it hangs at the start, in a round, or would take too long: a row, no endless wait."""
    slow = _stand_in(monkeypatch, tmp_path, **times)
    with referee.Referee("tiny", Options(seconds=0.0, limit=1.0)) as judge:
        judge.admit("slow", slow)
        heat = judge.race(["slow"])
        assert heat == {}
        (row,) = race.rows("tiny", ["slow"], [heat], judge)
    assert row == {"workload": "tiny", "contender": "slow", "skipped": row["skipped"]}
    assert reason in row["skipped"]


def test_a_contender_that_dies_leaves_the_others_their_race(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """One line names it; the others have all their rounds."""
    steady = _stand_in(monkeypatch, tmp_path, start=0.0, turn=0.0, ms=4.0)
    with referee.Referee("tiny", Options(seconds=0.0, limit=9.0)) as judge:
        judge.admit(race.OURS, steady)
        judge.admit("dying", steady)
        judge._running["dying"]._process.kill()
        heat = judge.race([race.OURS, "dying"])
        (row,) = race.rows("tiny", [race.OURS, "dying"], [heat], judge)
    assert row["ms"] == 4.0
    assert row["peak_rss_bytes"] == 7
    assert len(judge.missing) == 1
    assert "dying" not in heat
    assert "stopped with status -9" in judge.missing[0]


def test_ratios_are_of_rounds_of_the_same_heat() -> None:
    """On `embedding` the contenders run in several heats, ours in each."""
    assert race.groups("embedding", list("abcde")) == [["a", "b", "c"], ["d", "e"]]
    assert race.groups("tiny", list("abcde")) == [list("abcde")]
    judge = referee.Referee("tiny", Options())
    judge.ready = {name: _ready() for name in ("tapestep", "a", "d")}
    judge.peaks = dict.fromkeys(judge.ready, 1)
    first = {"tapestep": [1.0] * 5, "a": [2.0] * 5}
    second = {"tapestep": [3.0] * 5, "d": [4.0] * 5}
    ours, a, d = race.rows("embedding", ["tapestep", "a", "d"], [first, second], judge)
    assert (ours["ms_min"], ours["ms_max"], ours["ratio"]) == (1.0, 3.0, 1.0)
    assert (a["ratio"], d["ratio"]) == (0.5, 0.75)


def test_torch_is_compared_with_our_lazy_form() -> None:
    """PyTorch's SparseAdam moves the batch's rows alone; every other workload has one meaning."""
    assert race.ours_for("embedding", "torch_eager") == "tapestep_lazy"
    assert race.ours_for("embedding", "keras_best") == "tapestep"
    assert race.ours_for("tiny", "torch_eager") == "tapestep"


def test_a_race_writes_the_promised_file(tmp_path: pathlib.Path) -> None:
    """Two real contenders in processes of their own, and one that is not installed."""
    path, table = tmp_path / "race.json", tmp_path / "race.md"
    arguments = ["steps", f"--json={path}", "--workloads=tiny", "--round_seconds=0.05"]
    arguments.append(f"--markdown={table}")
    done = _run(*arguments, "--contenders=tapestep,bare")
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    assert {"machine", "versions", "rows"} <= set(result)
    assert {"cpu", "cores", "memory_bytes", "date"} <= set(result["machine"])
    assert "tensorflow" in result["versions"]
    assert [row["contender"] for row in result["rows"]] == ["tapestep", "bare"]
    for row in result["rows"]:
        assert set(row) == {
            *("workload", "contender", "ms", "ms_min", "ms_max"),
            *("compile_s", "peak_rss_bytes", "ratio"),
        }
        assert 0 < row["ms_min"] <= row["ms"] <= row["ms_max"]
        assert row["compile_s"] > 0
        assert row["peak_rss_bytes"] > 50e6
    assert result["rows"][0]["ratio"] == 1.0
    check = result["checks"][0]
    assert check["agree"], check
    assert all(len(losses) == 3 for losses in check["losses"].values())
    page = table.read_text().splitlines()
    assert page[0] == "# steps"
    command = f"python -m experiments.benchmark {shlex.join(arguments)}"
    assert f"- Command: `{command} --contenders=tapestep,bare`" in page
    assert f"- Date: {result['machine']['date']}" in page
    assert "- n: 5 rounds" in page
    machine = f"- Machine: {result['machine']['cpu']}, {result['machine']['cores']} cores"
    assert [line for line in page if line.startswith(machine)]
    assert [line for line in page if line.startswith("| `bare` |")]
    assert "\n".join(page) in done.stdout


def test_a_missing_environment_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """A contender whose environment is not there is named, and the race goes on without it."""
    monkeypatch.setattr(process.install_contenders, "DIRECTORY", tmp_path)
    result = whole(race.run(Options(workloads=["tiny"], contenders=["jax_scan"])))
    assert result["rows"] == []
    assert len(result["missing"]) == 1
    assert "jax_scan: not installed" in result["missing"][0]
    assert "\n" not in result["missing"][0]


def test_a_race_can_leave_contenders_out_of_a_workload(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """As --quick does of `mlp`, unless they are named; each workload is a part by itself."""
    monkeypatch.setattr(process.install_contenders, "DIRECTORY", tmp_path)
    names, works = ["jax_scan", "torch_compile"], ["tiny", "mlp"]
    options = Options(quick=True, workloads=works, contenders=names)

    def tried(options: Options) -> list[list[str]]:
        parts = [part["missing"] for part in race.run(options)]
        return [[line.split(": not installed")[0] for line in part] for part in parts]

    assert tried(options) == [["tiny: jax_scan", "tiny: torch_compile"], ["mlp: jax_scan"]]
    named = Options(quick=True, named=True, workloads=["mlp"], contenders=names)
    assert tried(named) == [["mlp: jax_scan", "mlp: torch_compile"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["steps", "--json=/dev/null", "--contenders=keras"], "--contenders: expected"),
        (["races", "--json=/dev/null"], "found races"),
        (["steps"], "--json"),
        (["steps", "--json=/dev/null", "--rounds=4"], "--rounds: expected at least 5"),
        (["memory", "--json=/dev/null", "--rounds=5"], "--rounds: expected none"),
        (["overhead", "--json=/dev/null", "--workloads=mlp"], "--workloads: expected none"),
        (["steps", "--json=/dev/null/a", "--contenders=floor"], "--json: expected a file"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: str) -> None:
    """A wrong flag ends with status 2 and one line that names it."""
    done = _run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
