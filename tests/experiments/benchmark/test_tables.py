"""The tables say what the files say: goals, what was missed, who was skipped."""

import json
import pathlib
from typing import Any

import pytest

from experiments.benchmark import tables

COSTS = {"compile_s": 1.5, "peak_rss_bytes": 700_000_000}


def _row(workload: str, contender: str, ms: float, ratio: float | None) -> dict[str, Any]:
    spread = {"ms": ms, "ms_min": ms * 0.9, "ms_max": ms * 1.1}
    return {"workload": workload, "contender": contender, "ratio": ratio, **spread, **COSTS}


RACE = [
    _row("mlp", "tapestep", 2.0, 1.0),
    _row("mlp", "keras_default", 8.0, 0.25),
    _row("mlp", "keras_best", 3.0, 0.67),
    _row("mlp", "jax_step", 2.5, 0.80),
    _row("cnn", "tapestep", 24.0, 1.0),
    _row("cnn", "tapestep_bf16", 16.0, 1.5),
    {"workload": "cnn", "contender": "jax_scan", "skipped": "not ready within 240 s"},
]


def _cells(table: str, first: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_best_of_a_framework_is_its_fastest_row() -> None:
    """Keras best is compared at keras_best's time, and a missed goal is bold."""
    table = tables.goals(RACE)
    assert _cells(table, "Ours divided by") == ["mlp", "cnn", "goals, in this order"]
    assert _cells(table, "Keras default") == ["0.25", "-", "0.33 / 0.55"]
    assert _cells(table, "Keras best") == ["**0.67**", "-", "0.6 / 0.55"]
    assert _cells(table, "JAX best") == ["0.80", "-", "0.9 / 0.15"]
    assert _cells(table, "bfloat16 divided by float32, both ours") == ["-", "**0.67**", "- / 0.65"]


def test_the_long_table_has_times_ratios_and_who_was_skipped() -> None:
    """Ours has no ratio to itself; an absent contender is a dash, a hopeless one says so."""
    long = tables.render("steps", RACE)
    times = long.split("\n\n")[3]
    assert _cells(times, "`tapestep`") == ["2 (1.8-2.2)", "24 (21.6-26.4)"]
    assert _cells(times, "`keras_default`") == ["8 (7.2-8.8) **0.25**", "-"]
    assert _cells(times, "`jax_scan`") == ["-", "skipped"]
    assert "1.5 s, 700 MB" in long
    assert "- cnn `jax_scan`: not ready within 240 s" in long


def test_a_row_of_a_later_file_replaces_the_earlier(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A workload that was run again takes its place in the table of the whole race."""
    about = {"machine": {"cpu": "c", "cores": 2, "date": "d"}, "versions": {}, "rounds": 5}
    paths = [tmp_path / "all.json", tmp_path / "again.json"]
    again = [_row("mlp", "keras_best", 2.5, 0.8), _row("cnn", "jax_scan", 700.0, 0.03)]
    for path, rows in zip(paths, (RACE, again), strict=True):
        path.write_text(json.dumps({"benchmark": "steps", **about, "rows": rows}))
    assert tables.main([str(path) for path in paths]) == 0
    printed = capsys.readouterr().out
    assert "2.5 (2.25-2.75) **0.80**" in printed
    assert "**0.67** |" not in printed.split("bfloat16")[0]
    assert "skipped" not in printed


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"benchmark": "steps", "rows": []}'])
def test_a_file_of_another_kind_is_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """Empty, foreign and damaged files end with status 2 and a line that names the file."""
    path = tmp_path / "other.json"
    path.write_text(text)
    assert tables.main([str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {path}: expected")
    assert len(printed.err.splitlines()) == 1
    assert tables.main([str(tmp_path / "none.json")]) == 2


def test_unknown_benchmarks_have_a_column_for_each_entry() -> None:
    """A benchmark without a table of its own is shown all the same."""
    shown = tables.render("feeds", [{"feed": "records", "ms": 1.23456, "share": None}])
    assert shown.splitlines() == [
        "| feed | ms | share |",
        "| --- | --- | --- |",
        "| records | 1.23 | - |",
    ]


def test_the_framework_is_judged_at_one_step_a_call() -> None:
    """150 us at K = 1 is bold; the same at K = 64 has no goal."""
    row = {"variables": 8, "target": "xla", "form": "loop", "ours_us_per_call": 400.0}
    row |= {"bare_us_per_call": 250.0, "framework_us": 150.0}
    row |= {"framework_us_min": 140.0, "framework_us_max": 160.0}
    one = {**row, "steps_per_call": 1, "goal_us": 100.0}
    many = {**row, "steps_per_call": 64, "goal_us": None}
    first, second = tables.render("overhead", [one, many]).splitlines()[2:]
    assert first.endswith("| **0.150** (0.140-0.160) | 0.1 |")
    assert second.endswith("| 0.150 (0.140-0.160) | - |")
