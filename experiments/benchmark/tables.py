"""Markdown tables of benchmark results, as BUILD_NOTES.md has them.

    python -m experiments.benchmark.tables FILE...

Files of one benchmark are one table: a row of a later file replaces the same row of an earlier one,
so that a workload that was run again by itself takes its place.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.benchmark import race, workloads

Row = Mapping[str, Any]
Line = list[str]

# What a row is known by; of each, the first that it has.
_KEYS = ("workload", "contender", "candidate", "kernel", "shape", "dtype", "target", "reference")
_MORE_KEYS = ("variables", "steps_per_call", "form", "feed")

_WORKLOADS = ("tiny", "mlp", "cnn", "resnet20", "transformer", "embedding")
_NONE = (None,) * len(_WORKLOADS)

# Ours divided by the fastest of these -> the goal on each workload, in the order of `_WORKLOADS`.
GOALS: dict[str, tuple[tuple[str, ...], tuple[float | None, ...]]] = {
    "Keras default": (("keras_default",), (0.10, 0.33, 0.55, 0.6, 0.60, 0.3)),
    "Keras best": (("keras_default", "keras_best"), (0.25, 0.60, 0.55, 0.6, 0.65, 0.4)),
    "Plain tf.function": (("plain_graph",), _NONE),
    "Orbit best": (("orbit_graph", "orbit_xla"), (0.70, 0.80, 0.65, 0.7, 0.70, 0.6)),
    "JAX best": (("jax_step", "jax_scan"), (0.90, 0.90, 0.15, 0.3, 0.90, 0.7)),
    "PyTorch best": (("torch_eager", "torch_compile"), (0.40, 0.65, 0.50, 0.7, 0.70, 0.7)),
    "bare": (("bare",), (1.02,) * len(_WORKLOADS)),
    "floor": (("floor",), (None, 1.25, 1.25, 1.3, 1.25, None)),
}
BFLOAT16_GOAL = {"cnn": 0.65}


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table to paste."""
    rule = ["---"] * len(header)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines))


def spread(row: Row, key: str = "ms") -> str:
    """`median (least-most)`."""
    low, high = number(row[f"{key}_min"]), number(row[f"{key}_max"])
    return f"{number(row[key])} ({low}-{high})"


def judged(value: float, goal: float | None) -> str:
    """Two digits; bold where the goal is missed."""
    shown = f"{value:.2f}"
    return f"**{shown}**" if goal is not None and value > goal else shown


def merged(rows: Sequence[Row]) -> list[Row]:
    """Each row once, the last of its kind, where the first stood."""
    found: dict[str, Row] = {}
    for row in rows:
        key = [row.get(name) for name in _KEYS]
        if "contender" not in row and "candidate" not in row:
            key += [row.get(name) for name in _MORE_KEYS]
        found[json.dumps(key)] = row
    return list(found.values())


def _names(rows: Sequence[Row], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


def _present(rows: Sequence[Row]) -> list[str]:
    found = _names(rows, "workload")
    return [name for name in workloads.WORKLOADS if name in found]


def _matrix(rows: Sequence[Row], cell: Callable[[Row], str]) -> str:
    """A line for each contender, a column for each workload; - where it did not run."""
    by = {(row["contender"], row["workload"]): row for row in rows}
    columns = _present(rows)
    lines = []
    for name in _names(rows, "contender"):
        cells = [by.get((name, workload)) for workload in columns]
        shown = [
            "-" if row is None else "skipped" if "skipped" in row else cell(row) for row in cells
        ]
        lines.append([f"`{name}`", *shown])
    return markdown(["Contender", *columns], lines)


def _times(row: Row) -> str:
    ours = row["contender"] == race.ours_for(row["workload"], row["contender"])
    ratio = "" if ours or row["ratio"] is None else f" **{row['ratio']:.2f}**"
    return spread(row) + ratio


def _costs(row: Row) -> str:
    return f"{row['compile_s']:.1f} s, {row['peak_rss_bytes'] / 1e6:.0f} MB"


def goals(rows: Sequence[Row]) -> str:
    """Ours divided by the best of each peer, and the goals."""
    ran = [row for row in rows if "skipped" not in row]
    columns, lines = _present(rows), []
    for title, (names, wanted) in GOALS.items():
        goal = dict(zip(_WORKLOADS, wanted, strict=True))
        cells = []
        for workload in columns:
            theirs = [r for r in ran if r["workload"] == workload and r["contender"] in names]
            best = min(theirs, key=lambda row: row["ms"], default=None)
            known = best is not None and best["ratio"] is not None
            cells.append(judged(best["ratio"], goal[workload]) if known and best else "-")
        shown = " / ".join("-" if goal[name] is None else f"{goal[name]:g}" for name in columns)
        lines.append([title, *cells, shown])
    half = {row["workload"]: row for row in ran if row["contender"] == race.OURS_BFLOAT16}
    if half:
        cells = [
            judged(1 / half[name]["ratio"], BFLOAT16_GOAL.get(name))
            if name in half and half[name]["ratio"]
            else "-"
            for name in columns
        ]
        shown = " / ".join(f"{BFLOAT16_GOAL.get(name, '-')}" for name in columns)
        lines.append(["bfloat16 divided by float32, both ours", *cells, shown])
    return markdown(["Ours divided by", *columns, "goals, in this order"], lines)


def steps(rows: Sequence[Row]) -> list[str]:
    """The race's tables: goals, times, costs, who was skipped."""
    skipped = [
        f"- {row['workload']} `{row['contender']}`: {row['skipped']}"
        for row in rows
        if "skipped" in row
    ]
    tables = [
        "Against the goals; bold: missed. On embedding PyTorch, whose Adam moves the batch's rows"
        " alone, is compared with `tapestep_lazy`.\n\n" + goals(rows),
        "Milliseconds a step, median (least-most); bold: ours divided by that contender.\n\n"
        + _matrix(rows, _times),
        "Compilation and first call, peak resident set.\n\n" + _matrix(rows, _costs),
    ]
    return tables + (["Skipped:\n\n" + "\n".join(skipped)] if skipped else [])


def _ratio(row: Row) -> str:
    return "-" if row["ratio"] is None else f"{row['ratio']:.2f}"


def replicas(rows: Sequence[Row]) -> list[str]:
    """Training on two virtual CPUs."""
    lines = [
        [row["workload"], f"`{row['contender']}`"]
        + (["skipped", row["skipped"]] if "skipped" in row else [spread(row), _ratio(row)])
        for row in rows
    ]
    return [markdown(["Workload", "Contender", "ms (least-most)", "ours / theirs"], lines)]


def kernels(rows: Sequence[Row]) -> list[str]:
    """Each kernel against each reference."""
    header = ["Kernel", "Shape", "Target", "ours ms (least-most)", "reference"]
    header += ["reference ms (least-most)", "ratio"]
    lines = []
    for row in rows:
        where = row["target"] if row["dtype"] == "float32" else f"{row['target']}, {row['dtype']}"
        line = [row["kernel"], str(row["shape"]), where, spread(row, "ours_ms"), row["reference"]]
        lines.append([*line, spread(row, "reference_ms"), _ratio(row)])
    return [markdown(header, lines)]


def start_up(rows: Sequence[Row]) -> list[str]:
    """How long people wait."""
    header = ["Workload", "Contender", "first step s", "step 100 s (least-most)", "ours / theirs"]
    lines = []
    for row in rows:
        line = [row["workload"], f"`{row['contender']}`", f"{row['first_step_s']:.2f}"]
        lines.append([*line, spread(row, "step_100_s"), _ratio(row)])
    return [markdown(header, lines)]


def overhead(rows: Sequence[Row]) -> list[str]:
    """What the framework itself costs a call."""
    header = ["Variables", "Target", "Steps a call", "Form", "ours ms a call", "bare ms a call"]
    header += ["framework ms a call (least-most)", "goal"]
    lines = []
    for row in rows:
        goal = row["goal_us"]
        missed = goal is not None and row["framework_us"] > goal
        low, middle, high = (
            f"{row[key] / 1e3:.3f}"
            for key in ("framework_us_min", "framework_us", "framework_us_max")
        )
        middle = f"**{middle}**" if missed else middle
        line = [str(row["variables"]), row["target"], str(row["steps_per_call"])]
        line += [
            row["form"],
            *(number(row[key] / 1e3) for key in ("ours_us_per_call", "bare_us_per_call")),
        ]
        lines.append(
            [*line, f"{middle} ({low}-{high})", "-" if goal is None else f"{goal / 1e3:g}"]
        )
    return [markdown(header, lines)]


def auto(rows: Sequence[Row]) -> list[str]:
    """Every candidate of `--compile=auto` and what it chose; bold: further off than 5 %."""
    header = [
        "Workload",
        "Candidate",
        "ms (least-most)",
        "ours / best",
        "times chosen",
        "compile s",
    ]
    lines = []
    for row in rows:
        if "skipped" in row:
            lines.append([row["workload"], row["candidate"], "skipped", row["skipped"], "", ""])
            continue
        name = row["candidate"]
        if name == "auto":
            name = f"auto ({row['compile']} x {row['steps_per_call']})"
        ratio = judged(row["ratio"], 1.05) if row["chosen"] else f"{row['ratio']:.2f}"
        line = [row["workload"], name, spread(row), ratio, str(row["chosen"] or "")]
        lines.append([*line, f"{row['compile_s']:.1f}"])
    return [markdown(header, lines)]


def plain(rows: Sequence[Row]) -> list[str]:
    """Any rows: a column for each entry."""
    header = list(dict.fromkeys(key for row in rows for key in row))

    def shown(value: Any) -> str:
        if value is None:
            return "-"
        return number(value) if isinstance(value, float) else str(value)

    return [markdown(header, [[shown(row.get(key)) for key in header] for row in rows])]


TABLES: dict[str, Callable[[Sequence[Row]], list[str]]] = {
    "steps": steps,
    "replicas": replicas,
    "kernels": kernels,
    "start_up": start_up,
    "overhead": overhead,
    "auto": auto,
}


def render(benchmark: str, rows: Sequence[Row]) -> str:
    """The tables of one benchmark's rows."""
    if not rows:
        return f"{benchmark}: no rows"
    return "\n\n".join(TABLES.get(benchmark, plain)(merged(rows)))


def origin(result: Mapping[str, Any]) -> str:
    """A line: machine, versions, date, rounds."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    rounds = f"; n = {result['rounds']} rounds" if "rounds" in result else ""
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['date']}; {versions}{rounds}"


def main(paths: Sequence[str]) -> int:
    """Prints the tables of the files; returns the exit status."""
    if not paths:
        print(
            "error: tables: expected result files, found none; to mend: name them", file=sys.stderr
        )
        return 2
    by_benchmark: dict[str, list[Row]] = {}
    for path in paths:
        try:
            result = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
            benchmark, rows, about = result["benchmark"], result["rows"], origin(result)
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(
                f"error: {path}: expected a file written by experiments.benchmark, found"
                f" {type(error).__name__}: {error}; to mend: run the benchmark again",
                file=sys.stderr,
            )
            return 2
        by_benchmark.setdefault(benchmark, []).extend(rows)
        print(f"{path}: {benchmark}; {about}")
    for benchmark, rows in by_benchmark.items():
        print(f"\n## {benchmark}\n\n{render(benchmark, rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
