"""Markdown tables of benchmark results, each with the command, machine, date and n behind it.

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

from experiments.benchmark import workloads
from experiments.benchmark.measurements import steps as race

Row = Mapping[str, Any]

# What a row is known by; of each, the first that it has.
_KEYS = ("workload", "contender", "candidate", "kernel", "shape", "dtype", "target", "reference")
_MORE_KEYS = ("variables", "steps_per_call", "form", "feed", "quantity")

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
AUTO_GOAL = 1.05


def shown(value: Any) -> str:
    """A number by three significant digits without an exponent, nothing as a dash."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table to paste."""
    rule = ["---"] * len(header)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines))


def spread(row: Row, key: str = "ms") -> str:
    """`median (least-most)`."""
    return f"{shown(row[key])} ({shown(row[f'{key}_min'])}-{shown(row[f'{key}_max'])})"


def judged(value: float, goal: float | None) -> str:
    """Two digits; bold where the goal is missed."""
    return f"**{value:.2f}**" if goal is not None and value > goal else f"{value:.2f}"


def merged(rows: Sequence[Row]) -> list[Row]:
    """Each row once, the last of its kind, where the first was."""
    found: dict[str, Row] = {}
    for row in rows:
        key = [row.get(name) for name in _KEYS]
        if "contender" not in row and "candidate" not in row:
            key += [row.get(name) for name in _MORE_KEYS]
        found[json.dumps(key)] = row
    return list(found.values())


def _present(rows: Sequence[Row]) -> list[str]:
    found = {row["workload"] for row in rows}
    return [name for name in workloads.WORKLOADS if name in found]


def _matrix(rows: Sequence[Row], cell: Callable[[Row], str]) -> str:
    """A line for each contender, a column for each workload; - where it did not run."""
    by = {(row["contender"], row["workload"]): row for row in rows}
    columns = _present(rows)

    def content(name: str, workload: str) -> str:
        row = by.get((name, workload))
        return "-" if row is None else "skipped" if "skipped" in row else cell(row)

    names = dict.fromkeys(row["contender"] for row in rows)
    lines = [[f"`{name}`", *(content(name, each) for each in columns)] for name in names]
    return markdown(["Contender", *columns], lines)


def _times(row: Row) -> str:
    ours = row["contender"] == race.ours_for(row["workload"], row["contender"])
    return spread(row) + ("" if ours or row["ratio"] is None else f" **{row['ratio']:.2f}**")


def _costs(row: Row) -> str:
    return f"{row['compile_s']:.1f} s, {row['peak_rss_bytes'] / 1e6:.0f} MB"


def goals(rows: Sequence[Row]) -> str:
    """Ours divided by the best of each framework, and the goals."""
    ran = [row for row in rows if "skipped" not in row]
    columns, lines = _present(rows), []

    def line(title: str, ratios: Mapping[str, Any], wanted: Mapping[str, float | None]) -> None:
        cells = [judged(ratios[w], wanted.get(w)) if ratios.get(w) else "-" for w in columns]
        lines.append([title, *cells, " / ".join(shown(wanted.get(w)) for w in columns)])

    for title, (names, wanted) in GOALS.items():
        theirs = sorted((r for r in ran if r["contender"] in names), key=lambda r: -r["ms"])
        ratios = {row["workload"]: row["ratio"] for row in theirs}  # of the fastest stays
        line(title, ratios, dict(zip(_WORKLOADS, wanted, strict=True)))
    half = [row for row in ran if row["contender"] == race.OURS_BFLOAT16]
    if half:
        ratios = {row["workload"]: row["ratio"] and 1 / row["ratio"] for row in half}
        line("bfloat16 divided by float32, both ours", ratios, BFLOAT16_GOAL)
    return markdown(["Ours divided by", *columns, "goals, in this order"], lines)


def steps(rows: Sequence[Row]) -> list[str]:
    """The race's tables: goals, times, costs, who was skipped."""
    skipped = [
        f"- {row['workload']} `{row['contender']}`: {row['skipped']}"
        for row in rows
        if "skipped" in row
    ]
    tables = [
        "Against the goals; bold: missed. On embedding PyTorch, whose Adam moves only the batch's"
        " rows, is compared with `tapestep_lazy`.\n\n" + goals(rows),
        "Milliseconds a step, median (least-most); bold: ours divided by that contender.\n\n"
        + _matrix(rows, _times),
        "Compilation and first call, peak resident set.\n\n" + _matrix(rows, _costs),
    ]
    return tables + (["Skipped:\n\n" + "\n".join(skipped)] if skipped else [])


def _ratio(row: Row) -> str:
    return "-" if row["ratio"] is None else f"{row['ratio']:.2f}"


def _target(row: Row) -> str:
    return row["target"] if row["dtype"] == "float32" else f"{row['target']}, {row['dtype']}"


def _framework(row: Row) -> str:
    """Milliseconds; bold where the goal is missed."""
    keys = ("framework_us", "framework_us_min", "framework_us_max")
    middle, low, high = (f"{row[key] / 1e3:.3f}" for key in keys)
    missed = row["goal_us"] is not None and row["framework_us"] > row["goal_us"]
    return f"{f'**{middle}**' if missed else middle} ({low}-{high})"


def _candidate(row: Row) -> str:
    name = str(row["candidate"])
    return name if name != "auto" else f"auto ({row['compile']} x {row['steps_per_call']})"


def _off_best(row: Row) -> str:
    """Bold where what was chosen is further from the best than the goal."""
    return judged(row["ratio"], AUTO_GOAL if row["chosen"] else None)


# Benchmark -> heading and content of each column.
COLUMNS: dict[str, dict[str, Callable[[Row], str]]] = {
    "replicas": {
        "Workload": lambda row: row["workload"],
        "Contender": lambda row: f"`{row['contender']}`",
        "ms (least-most)": spread,
        "ours / theirs": _ratio,
    },
    "kernels": {
        "Kernel": lambda row: row["kernel"],
        "Shape": lambda row: str(row["shape"]),
        "Target": _target,
        "ours ms (least-most)": lambda row: spread(row, "ours_ms"),
        "reference": lambda row: row["reference"],
        "reference ms (least-most)": lambda row: spread(row, "reference_ms"),
        "ratio": _ratio,
    },
    "start_up": {
        "Workload": lambda row: row["workload"],
        "Contender": lambda row: f"`{row['contender']}`",
        "first step s": lambda row: f"{row['first_step_s']:.2f}",
        "step 100 s (least-most)": lambda row: spread(row, "step_100_s"),
        "ours / theirs": _ratio,
    },
    "overhead": {
        "Variables": lambda row: str(row["variables"]),
        "Target": lambda row: row["target"],
        "Steps a call": lambda row: str(row["steps_per_call"]),
        "Form": lambda row: row["form"],
        "ours ms a call": lambda row: f"{row['ours_us_per_call'] / 1e3:.2f}",
        "bare ms a call": lambda row: f"{row['bare_us_per_call'] / 1e3:.2f}",
        "framework ms a call (least-most)": _framework,
        "goal": lambda row: "-" if row["goal_us"] is None else f"{row['goal_us'] / 1e3:g}",
    },
    "auto": {
        "Workload": lambda row: row["workload"],
        "Candidate": _candidate,
        "ms (least-most)": spread,
        "ours / best": _off_best,
        "times chosen": lambda row: str(row["chosen"] or ""),
        "compile s": lambda row: f"{row['compile_s']:.1f}",
    },
}


def _by_columns(columns: Mapping[str, Callable[[Row], str]], rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        if "skipped" in row:
            who = row.get("candidate") or f"`{row['contender']}`"
            blank = [""] * (len(columns) - 4)
            lines.append([row["workload"], who, "skipped", row["skipped"], *blank])
        else:
            lines.append([content(row) for content in columns.values()])
    return markdown(list(columns), lines)


def _plain(rows: Sequence[Row]) -> str:
    """Any rows: a column for each entry."""
    header = list(dict.fromkeys(key for row in rows for key in row))
    return markdown(header, [[shown(row.get(key)) for key in header] for row in rows])


def render(benchmark: str, rows: Sequence[Row]) -> str:
    """The tables of one benchmark's rows."""
    rows = merged(rows)
    if not rows:
        return f"{benchmark}: no rows"
    if benchmark == "steps":
        return "\n\n".join(steps(rows))
    return _by_columns(COLUMNS[benchmark], rows) if benchmark in COLUMNS else _plain(rows)


def origin(result: Mapping[str, Any]) -> str:
    """Lines of Markdown: command, machine, date, n, versions, and who is missing."""
    machine = result["machine"]
    memory = machine.get("memory_bytes")
    lines = [
        f"Command: `{result['command']}`" if "command" in result else "",
        f"Machine: {machine['cpu']}, {machine['cores']} cores"
        + (f", {memory / 2**30:.1f} GiB of memory" if memory else ""),
        f"Date: {machine['date']}",
        f"n: {result['rounds']} round{'s' * (result['rounds'] != 1)}" if "rounds" in result else "",
        "Versions: " + ", ".join(f"{name} {each}" for name, each in result["versions"].items()),
        *(f"Missing: {line}" for line in result.get("missing", ())),
    ]
    return "\n".join(f"- {line}" for line in lines if line)


def document(benchmark: str, results: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown page: where the results are from, and the tables of all their rows."""
    rows = [row for result in results for row in result.get("rows", ())]
    origins = "\n\n".join(map(origin, results))
    return f"# {benchmark}\n\n{origins}\n\n{render(benchmark, rows)}\n"


def main(paths: Sequence[str]) -> int:
    """Prints the tables of the files; returns the exit status."""
    if not paths:
        print(
            "error: tables: expected result files, found none; to mend: name them", file=sys.stderr
        )
        return 2
    by_benchmark: dict[str, list[Mapping[str, Any]]] = {}
    for path in paths:
        try:
            result = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
            benchmark, _, _ = result["benchmark"], result["rows"], origin(result)
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(
                f"error: {path}: expected a file written by experiments.benchmark, found"
                f" {type(error).__name__}: {error}; to mend: run the benchmark again",
                file=sys.stderr,
            )
            return 2
        by_benchmark.setdefault(benchmark, []).append(result)
    print("\n".join(document(name, results) for name, results in by_benchmark.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
