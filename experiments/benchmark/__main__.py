"""Measures ours against others, side by side, and writes JSON and Markdown files.

    python -m experiments.benchmark NAME --json=FILE [--markdown=FILE] [--quick]
        [--workloads=...] [--contenders=...] [--rounds=N]

`steps` races whole training steps against other frameworks (`make bench-contenders` installs them),
`kernels` our kernels against TensorFlow's plain forms and Keras's layers, `replicas` training on
two virtual CPUs; `start_up` times the wait until the first and the hundredth step, `overhead` what
the framework itself costs a call; `auto` races what `--compile=auto` chooses against every setting
it could have chosen, `feeds` streamed TFRecords against resident arrays, and `finite_check` steps
with the check for NaN and infinity against the same ones without; `scaling` measures the parameters
of the cost model of several replicas. Every contender runs in each of at least five rounds, and a
ratio is the median over the rounds of ours / theirs. A contender that is not ready within
--limit_seconds, or whose rounds would last longer, is a row that says so. `memory` times nothing:
it streams an epoch of data four times as large as the memory that the process may have.

--quick ends within 3 minutes on two cores with nothing else running: `steps` then races every
contender on `tiny`, and on `mlp` those that neither search nor compile for long (no keras_best,
torch_compile or tapestep_bf16). Each benchmark ends with its tables in Markdown; `python -m
experiments.benchmark.tables FILE...` makes them again, of several files together.
"""

from __future__ import annotations

import importlib
import itertools
import json
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from experiments.benchmark import machine, tables, workloads
from experiments.benchmark.contenders.table import CONTENDERS
from experiments.benchmark.measurement import Measurement, Options, Result, whole
from experiments.entry import tensorflow_import
from experiments.entry.errors import InputError, alternatives
from experiments.entry.run_main import run_main

_JSON = flags.DEFINE_string("json", None, "where to write the results", required=True)
_MARKDOWN = flags.DEFINE_string("markdown", None, "where to write the tables")
_QUICK = flags.DEFINE_bool("quick", False, "a short run: fewer workloads, shorter rounds")
_WORKLOADS = flags.DEFINE_list("workloads", [], f"among {', '.join(workloads.WORKLOADS)}")
_CONTENDERS = flags.DEFINE_list("contenders", [], f"among {', '.join(CONTENDERS)}")
_ROUNDS = flags.DEFINE_integer("rounds", None, "rounds")
_SECONDS = flags.DEFINE_float("round_seconds", None, "a contender's time in a round", lower_bound=0)
_LIMIT = flags.DEFINE_float(
    "limit_seconds", Options.limit, "until a contender is ready, and for its rounds", 1
)

_HERE = "experiments.benchmark"
# Name -> module; imported when it is asked for, since some import TensorFlow.
MEASUREMENTS = {
    name: f"{_HERE}.measurements.{name}"
    for name in (
        *("steps", "kernels", "replicas", "start_up", "overhead"),
        *("auto", "feeds", "memory", "finite_check"),
    )
} | {"scaling": f"{_HERE}.scaling"}


def _selected(flag: Any, known: Sequence[str], default: Sequence[str]) -> Sequence[str]:
    unknown = [name for name in flag.value if name not in known]
    if unknown:
        raise InputError(
            f"--{flag.name}",
            expected=f"names among {', '.join(known)}" if known else "none for this measurement",
            found=", ".join(unknown),
            mend="correct the spelling, or leave the flag out for all",
        )
    return flag.value or default


def _options(measurement: Measurement) -> Options:
    """The flags' values, and the measurement's own where none is given."""
    quick, rounds, own = bool(_QUICK.value), _ROUNDS.value, measurement
    if rounds is not None and not (own.rounds[0] and rounds >= own.least_rounds):
        expected = f"at least {own.least_rounds}" if own.rounds[0] else "none"
        mend = "leave the flag out for the usual number"
        raise InputError("--rounds", expected=expected, found=rounds, mend=mend)
    default = (quick and own.quick) or own.default or own.workloads
    return Options(
        quick=quick,
        workloads=_selected(_WORKLOADS, own.workloads, default),
        contenders=_selected(_CONTENDERS, own.contenders, own.contenders),
        named=bool(_WORKLOADS.value or _CONTENDERS.value),
        rounds=own.rounds[quick] if rounds is None else rounds,
        seconds=own.seconds[quick] if _SECONDS.value is None else _SECONDS.value,
        limit=_LIMIT.value,
    )


def _parse(argv: list[str]) -> str:
    """The measurement's name."""
    app.define_help_flags()
    try:
        _, *names = flags.FLAGS(argv)
    except flags.Error as error:
        raise InputError(
            "flags",
            expected="the flags that --help lists",
            found=str(error).splitlines()[0],
            mend="give --json=FILE and correct the flag",
        ) from error
    if len(names) != 1 or names[0] not in MEASUREMENTS:
        raise InputError(
            "benchmark",
            expected=f"one name, {alternatives(MEASUREMENTS)}",
            found=" ".join(names) or "none",
            mend="python -m experiments.benchmark steps --json=FILE",
        )
    return str(names[0])


def _write(flag: Any, text: str) -> None:
    """Writes the flag's file, where it is given."""
    if flag.value is None:
        return
    path = pathlib.Path(flag.value)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        expected, found = "a file that can be written", f"{path}: {error.strerror}"
        mend = "name another file"
        raise InputError(f"--{flag.name}", expected=expected, found=found, mend=mend) from error


def main(argv: list[str]) -> None:
    """Runs the named measurement; writes its results so far after each part of it."""
    name = _parse(argv)
    with tensorflow_import.without_banner():  # bad input below is one line
        measurement: Measurement = importlib.import_module(MEASUREMENTS[name]).MEASUREMENT
    options = _options(measurement)
    command = f"python -m {_HERE} {shlex.join(argv[1:])}"
    result: Result = {"benchmark": name, "command": command, "rounds": options.rounds or 1}
    result |= {"machine": machine.describe(), "versions": machine.versions(), "rows": []}
    for part in itertools.chain([{}], measurement.run(options)):
        whole([part], result)
        for row in part.get("rows", ()):
            print("  ".join(map(tables.shown, row.values())), flush=True)
        for line in part.get("missing", ()):
            print(f"missing: {line}", flush=True)
        _write(_JSON, json.dumps(result, indent=1) + "\n")
        _write(_MARKDOWN, tables.document(name, [result]))
    print(f"\n{tables.document(name, [result])}")


if __name__ == "__main__":
    run_main(main)
