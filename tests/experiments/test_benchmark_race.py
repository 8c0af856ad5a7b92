"""The race: the same weights and data for all, honest ratios, a real run of two contenders."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from experiments.benchmark import race, workloads
from experiments.benchmark.peers import floor

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments.benchmark", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


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
    for product in floor._convolution((2, 6, 8, 3), 4, stride=2):
        left, right = (
            generator.standard_normal(shape).astype(np.float32)
            for shape in floor._operands(product)
        )
        plain = floor._compute(product, left, right).numpy()
        with target.tracing_for("xla"):
            by_kernel = floor._compute(product, left, right).numpy()
        np.testing.assert_allclose(by_kernel, plain, rtol=1e-4, atol=1e-4, err_msg=product.kind)


def test_losses_that_part_are_seen() -> None:
    """A contender that computes something else is further from the median than the tolerance."""
    losses = {"a": [2.0, 1.5], "b": [2.0, 1.5005], "c": [2.0, 1.6], "floor": []}
    difference = race.agreement(losses)
    assert set(difference) == {"a", "b", "c"}
    assert difference["b"] <= race.LOSS_TOLERANCE
    assert difference["c"] > race.LOSS_TOLERANCE


def test_steps_a_round_are_whole_calls() -> None:
    """A round never cuts a call, and a slow contender still runs one."""
    ready = race.Ready(compile_s=1, start_s=1, losses=[], ms=10.0, note="", versions={})
    assert race.steps_a_round(ready, 16, 1.0) == 96
    assert race.steps_a_round(ready, 16, 0.001) == 16


def test_torch_is_compared_with_our_lazy_form() -> None:
    """PyTorch's SparseAdam moves the batch's rows alone; every other workload has one meaning."""
    assert race.ours_for("embedding", "torch_eager") == "tapestep_lazy"
    assert race.ours_for("embedding", "keras_best") == "tapestep"
    assert race.ours_for("tiny", "torch_eager") == "tapestep"


def test_a_race_writes_the_promised_file(tmp_path: pathlib.Path) -> None:
    """Two real contenders in processes of their own, and one that is not installed."""
    path = tmp_path / "race.json"
    arguments = ["steps", f"--json={path}", "--workloads=tiny", "--round_seconds=0.05"]
    done = _run(*arguments, "--peers=tapestep,bare")
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


def test_a_missing_peer_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """A contender whose environment is not there is named, and the race goes on without it."""
    monkeypatch.setattr(race.install_peers, "DIRECTORY", tmp_path)
    running: dict[str, race.Process] = {}
    ready, missing = race._start(["jax_scan"], workloads.WORKLOADS["tiny"], running)
    assert not ready
    assert not running
    assert len(missing) == 1
    assert "jax_scan: not installed" in missing[0]
    assert "\n" not in missing[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["steps", "--json=/dev/null", "--peers=keras"], "--peers: expected"),
        (["races", "--json=/dev/null"], "found races"),
        (["steps"], "--json"),
        (["steps", "--json=/dev/null", "--rounds=4"], "rounds"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: str) -> None:
    """A wrong flag ends with status 2 and one line that names it."""
    done = _run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
