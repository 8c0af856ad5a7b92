"""Measures ours against others, side by side, and writes a JSON file.

    python -m experiments.benchmark steps --json=FILE [--quick] [--workloads=...] [--peers=...]
    python -m experiments.benchmark kernels --json=FILE [--quick]
    python -m experiments.benchmark replicas --json=FILE [--quick]
    python -m experiments.benchmark start_up --json=FILE [--quick]
    python -m experiments.benchmark overhead --json=FILE [--quick]
    python -m experiments.benchmark feeds --json=FILE [--quick]
    python -m experiments.benchmark memory --json=FILE [--quick]
    python -m experiments.benchmark finite_check --json=FILE [--quick] [--workloads=...]
    python -m experiments.benchmark auto --json=FILE [--quick] [--workloads=...]

`steps` races whole training steps against other frameworks (`make bench-peers` installs them),
`kernels` our kernels against TensorFlow's plain forms and Keras's layers, `replicas` training on
two virtual CPUs; `start_up` times the wait until the first and the hundredth step, `overhead` what
the framework itself costs a call; `auto` races what `--compile=auto` chooses against every setting
it could have chosen, `feeds` streamed TFRecords against resident arrays, and `finite_check` steps
with the check for NaN and infinity against the same ones without. Every contender runs in each of
at least five rounds, and a ratio is the median over the rounds of ours / theirs. A
contender that is not ready within --limit_seconds, or whose rounds would last longer, is a row that
says so. `memory` times nothing: it streams an epoch of data four times as large as the memory that
the process may have.

--quick ends within 3 minutes on two cores with nothing else running: `steps` then races every peer
on `tiny`, and on `mlp` those that neither search nor compile for long (no keras_best, torch_compile
or tapestep_bf16). Each benchmark ends with its tables in Markdown; `python -m
experiments.benchmark.tables FILE...` makes them again, of several files together.
"""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

from absl import app, flags

from experiments.benchmark import auto, race, start_up, tables, timing, workloads
from experiments.entry import tensorflow_import
from experiments.entry.errors import InputError, alternatives
from experiments.entry.run_main import run_main

_JSON = flags.DEFINE_string("json", None, "where to write the results", required=True)
_QUICK = flags.DEFINE_bool("quick", False, "a short run: fewer workloads, shorter rounds")
_WORKLOADS = flags.DEFINE_list(
    "workloads", [], f"of {', '.join(workloads.WORKLOADS)}; all if empty"
)
_PEERS = flags.DEFINE_list("peers", [], f"of {', '.join(race.CONTENDERS)}; all if empty")
_ROUNDS = flags.DEFINE_integer("rounds", timing.MIN_ROUNDS, "rounds", lower_bound=timing.MIN_ROUNDS)
_SECONDS = flags.DEFINE_float("round_seconds", 1.0, "a contender's time in a round", lower_bound=0)
_LIMIT = flags.DEFINE_float(
    "limit_seconds", race.LIMIT_SECONDS, "until a contender is ready, and for its rounds", 1
)

QUICK_WORKLOADS = ("tiny", "mlp")
# Half a minute of searching and compiling; --workloads=mlp has them.
QUICK_LEFT_OUT = {"mlp": ("keras_best", "torch_compile", race.OURS_BFLOAT16)}
QUICK_SECONDS = 0.3


def _selected(flag: str, names: list[str], known: list[str], default: list[str]) -> list[str]:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(
            f"--{flag}",
            expected=f"names among {', '.join(known)}",
            found=", ".join(unknown),
            mend="correct the spelling, or leave the flag out for all",
        )
    return names or default


def _steps() -> dict[str, Any]:
    known = list(workloads.WORKLOADS)
    default = list(QUICK_WORKLOADS) if _QUICK.value else known
    peers = _selected("peers", _PEERS.value, list(race.CONTENDERS), list(race.CONTENDERS))
    seconds = QUICK_SECONDS if _QUICK.value else _SECONDS.value
    chosen = _selected("workloads", _WORKLOADS.value, known, default)
    return race.run(
        peers,
        chosen,
        rounds=_ROUNDS.value,
        seconds=seconds,
        limit=_LIMIT.value,
        left_out=QUICK_LEFT_OUT if _QUICK.value and not (_WORKLOADS.value or _PEERS.value) else {},
        save=functools.partial(_save, "steps"),
    )


def _replicas() -> dict[str, Any]:
    known = list(race.REPLICA_CONTENDERS)
    peers = _selected("peers", _PEERS.value, known, known)
    chosen = _selected(
        "workloads", _WORKLOADS.value, list(workloads.WORKLOADS), list(race.REPLICA_WORKLOADS)
    )
    seconds = QUICK_SECONDS if _QUICK.value else _SECONDS.value
    return race.run(peers, chosen, rounds=_ROUNDS.value, seconds=seconds, limit=_LIMIT.value)


def _auto() -> dict[str, Any]:
    known = list(workloads.WORKLOADS)
    default = list(auto.QUICK_WORKLOADS) if _QUICK.value else known
    return auto.run(
        _selected("workloads", _WORKLOADS.value, known, default),
        quick=_QUICK.value,
        rounds=_ROUNDS.value,
        seconds=QUICK_SECONDS if _QUICK.value else _SECONDS.value,
        limit=_LIMIT.value,
    )


def _feeds() -> dict[str, Any]:
    # Imports TensorFlow, which writes the shards.
    with tensorflow_import.without_banner():
        from experiments.benchmark import feeds

    known = ["cnn", "resnet20"]
    seconds = feeds.QUICK_SECONDS if _QUICK.value else feeds.SECONDS
    return feeds.run(
        _selected("workloads", _WORKLOADS.value, known, list(feeds.WORKLOADS)),
        rounds=_ROUNDS.value,
        seconds=_SECONDS.value if _SECONDS.present else seconds,
    )


def _memory() -> dict[str, Any]:
    # Imports TensorFlow, which writes the records.
    with tensorflow_import.without_banner():
        from experiments.benchmark import memory

    return memory.run(ratio=memory.QUICK_RATIO if _QUICK.value else memory.RATIO)


def _finite_check() -> dict[str, Any]:
    # Imports TensorFlow: both contenders share a process.
    with tensorflow_import.without_banner():
        from experiments.benchmark import finite_check

    known = [*workloads.WORKLOADS, finite_check.PROGRAM]
    default = list(QUICK_WORKLOADS) if _QUICK.value else known
    chosen = _selected("workloads", _WORKLOADS.value, known, default)
    rounds = _ROUNDS.value if _ROUNDS.present else None
    return finite_check.run(chosen, quick=_QUICK.value, rounds=rounds)


def _start_up() -> dict[str, Any]:
    known = list(start_up.CONTENDERS)
    peers = _selected("peers", _PEERS.value, known, known)
    default = list(start_up.WORKLOADS[:1] if _QUICK.value else start_up.WORKLOADS)
    chosen = _selected("workloads", _WORKLOADS.value, list(workloads.WORKLOADS), default)
    return start_up.run(peers, chosen, rounds=_ROUNDS.value)


def _overhead() -> dict[str, Any]:
    # Imports TensorFlow, as the kernels' does.
    with tensorflow_import.without_banner():
        from experiments.benchmark import overhead

    return overhead.run(quick=_QUICK.value, rounds=_ROUNDS.value)


def _kernels() -> dict[str, Any]:
    # Imports TensorFlow, which the race of whole steps leaves to its contenders.
    with tensorflow_import.without_banner():
        from experiments.benchmark import kernel_race

    return kernel_race.run(quick=_QUICK.value, rounds=_ROUNDS.value)


BENCHMARKS = {
    "steps": _steps,
    "kernels": _kernels,
    "replicas": _replicas,
    "start_up": _start_up,
    "overhead": _overhead,
    "auto": _auto,
    "feeds": _feeds,
    "memory": _memory,
    "finite_check": _finite_check,
}


def _parse(argv: list[str]) -> str:
    """The benchmark's name."""
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
    if len(names) != 1 or names[0] not in BENCHMARKS:
        raise InputError(
            "benchmark",
            expected=f"one name, {alternatives(BENCHMARKS)}",
            found=" ".join(names) or "none",
            mend="python -m experiments.benchmark steps --json=FILE",
        )
    return str(names[0])


def _save(name: str, result: dict[str, Any]) -> None:
    """Writes the file; a long race does it after each workload."""
    text = json.dumps({"benchmark": name, **result}, indent=1)
    pathlib.Path(_JSON.value).write_text(text + "\n", encoding="utf-8")


def main(argv: list[str]) -> None:
    """Runs the named benchmark and writes its result."""
    name = _parse(argv)
    path = pathlib.Path(_JSON.value)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()  # A folder can be touched.
    except OSError as error:
        raise InputError(
            "--json",
            expected="a file that can be written",
            found=f"{path}: {error.strerror}",
            mend="name another file",
        ) from error
    result = BENCHMARKS[name]()
    _save(name, result)
    print(f"\n{tables.render(name, result['rows'])}")


if __name__ == "__main__":
    run_main(main)
