"""The steps race's referee: starts each contender in its own process and interleaves them."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from absl import logging

from experiments.benchmark import install_peers, machine, timing, workloads

OURS = "tapestep"
ROOT = install_peers.ROOT

# Contender -> the environment in .venv-peers it runs in; None for our own.
CONTENDERS: dict[str, str | None] = {
    "tapestep": None,
    "tapestep_lazy": None,
    "keras_default": None,
    "keras_best": None,
    "plain_graph": None,
    "orbit_graph": "orbit",
    "orbit_xla": "orbit",
    "jax_step": "jax",
    "jax_scan": "jax",
    "torch_eager": "torch",
    "torch_compile": "torch",
    "bare": None,
    "floor": None,
}

# The replicas benchmark's: two virtual CPUs at the same global batch, and ours on one.
OURS_MIRRORED = "tapestep_mirrored"
REPLICA_CONTENDERS: dict[str, str | None] = {
    OURS_MIRRORED: None,
    OURS: None,
    "keras_mirrored": None,
    "orbit_mirrored": "orbit",
}
REPLICA_WORKLOADS = ("mlp", "cnn")

# On sparse gradients Adam has two meanings: every row moves (TensorFlow, Keras, optax), or the
# batch's rows alone do (PyTorch). We offer both; each peer is compared with ours of its meaning.
SPARSE_WORKLOAD = "embedding"
OURS_LAZY = "tapestep_lazy"
LAZY = (OURS_LAZY, "torch_eager", "torch_compile")

# First losses further apart than this mean that two contenders do not compute the same thing. It
# leaves room for float32 sums in another order and for the two places where Adam's epsilon stands.
LOSS_TOLERANCE = 2e-3


class ContenderError(Exception):
    """A contender that could not start or stopped in the middle; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Ready:
    """What a contender reports once it is built."""

    compile_s: float
    start_s: float
    losses: list[float]
    ms: float
    note: str
    versions: dict[str, str]


class Process:
    """A contender's process; a context manager that ends it."""

    def __init__(
        self, contender: str, workload: str, steps_per_call: int, *, start_up: bool = False
    ) -> None:
        environment = {**CONTENDERS, **REPLICA_CONTENDERS}[contender]
        python = (
            pathlib.Path(sys.executable)
            if environment is None
            else install_peers.interpreter(environment)
        )
        if not python.exists():
            raise ContenderError(
                f"{contender}: not installed ({python} is missing); make bench-peers"
            )
        module = f"experiments.benchmark.peers.{contender}"
        command = [str(python), "-m", module, f"--workload={workload}"]
        command.append(f"--steps_per_call={steps_per_call}")
        if start_up:
            command.append(f"--started_at={time.time()!r}")
        self._contender = contender
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by __exit__
        self._started = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def answer(self) -> dict[str, Any]:
        """The next line from the contender.

        Raises:
          ContenderError: when it stops instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            last = [text.strip() for text in self._errors.read().splitlines() if text.strip()]
            reason = last[-1][:300] if last else "it wrote nothing"
            raise ContenderError(f"{self._contender}: stopped with status {status}: {reason}")
        return dict(json.loads(line))

    def ready(self) -> Ready:
        """Waits until the contender is built and warm.

        Raises:
          ContenderError: when it stops instead.
        """
        message = self.answer()["ready"]
        return Ready(start_s=time.perf_counter() - self._started, **message)

    def go(self, steps: int) -> tuple[float, int]:
        """Runs `steps` steps; (milliseconds a step, peak resident bytes).

        Raises:
          ContenderError: when the contender stops instead.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"go {steps}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the missing answer says why
        answer = self.answer()
        return float(answer["ms"]), int(answer["peak_rss_bytes"])


def agreement(losses: dict[str, list[float]]) -> dict[str, float]:
    """How far each contender's first losses are from the median contender's, relatively.

    Contenders without losses (the floor trains nothing) are left out.
    """
    stated = {name: values for name, values in losses.items() if values}
    steps = list(zip(*stated.values(), strict=True))
    middle = [timing.summarize(step).median for step in steps]
    return {
        name: max(abs(a - b) / max(abs(b), 1e-3) for a, b in zip(values, middle, strict=True))
        for name, values in stated.items()
    }


def steps_a_round(ready: Ready, steps_per_call: int, seconds: float) -> int:
    """Steps that fill about `seconds`, in whole calls, at least one."""
    calls = seconds * 1e3 / max(ready.ms, 1e-6) / steps_per_call
    return max(1, round(calls)) * steps_per_call


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One workload's race.

    Attributes:
      rows: the rows of the JSON file.
      check: {workload, tolerance, agree, losses, difference} of the first steps.
      notes: contender -> its own remark, such as the setting it chose.
      missing: one line for each contender that did not run.
      versions: distribution -> version, over all contenders.
    """

    rows: list[dict[str, Any]]
    check: dict[str, Any]
    notes: dict[str, str]
    missing: list[str]
    versions: dict[str, str]


def _start(
    names: Sequence[str], workload: workloads.Workload, running: dict[str, Process]
) -> tuple[dict[str, Ready], list[str]]:
    """Starts the contenders one after the other, so that none disturbs another's compile time."""
    ready: dict[str, Ready] = {}
    missing: list[str] = []
    for name in names:
        try:
            running[name] = Process(name, workload.name, workload.steps_per_call)
            ready[name] = running[name].ready()
            logging.info("%s %s: ready in %.1f s", workload.name, name, ready[name].start_s)
        except ContenderError as error:
            missing.append(f"{workload.name}: {error}")
            if name in running:
                running.pop(name).__exit__()
    return ready, missing


def ours_for(workload: str, contender: str, names: Collection[str] = ()) -> str:
    """Which of ours a contender's ratio is taken against.

    Args:
      workload: its name.
      contender: whose ratio.
      names: the contenders that ran.
    """
    if OURS_MIRRORED in names:
        return OURS_MIRRORED
    return OURS_LAZY if workload == SPARSE_WORKLOAD and contender in LAZY else OURS


def _rows(
    workload: workloads.Workload,
    ready: dict[str, Ready],
    measured: dict[str, list[float]],
    peaks: dict[str, int],
) -> list[dict[str, Any]]:
    rows = []
    for name, milliseconds in measured.items():
        summary = timing.summarize(milliseconds)
        ours = measured.get(ours_for(workload.name, name, measured))
        ratio = timing.median_ratio(ours, milliseconds) if ours else None
        rows.append(
            {
                "workload": workload.name,
                "contender": name,
                "ms": summary.median,
                "ms_min": summary.minimum,
                "ms_max": summary.maximum,
                "compile_s": ready[name].compile_s,
                "peak_rss_bytes": peaks[name],
                "ratio": ratio,
            }
        )
    return rows


def run_workload(
    workload: workloads.Workload, names: Sequence[str], *, rounds: int, seconds: float
) -> Outcome:
    """Races the named contenders on one workload.

    Args:
      workload: what they train.
      names: the contenders, in the order they run within a round.
      rounds: rounds to interleave.
      seconds: about how long a contender runs in a round.
    """
    running: dict[str, Process] = {}
    names = [name for name in names if name != OURS_LAZY or workload.name == SPARSE_WORKLOAD]
    try:
        ready, missing = _start(names, workload, running)
        peaks: dict[str, int] = {}

        def measure(name: str) -> Callable[[], float]:
            steps = steps_a_round(ready[name], workload.steps_per_call, seconds)

            def go() -> float:
                milliseconds, peaks[name] = running[name].go(steps)
                return milliseconds

            return go

        measured = timing.interleave({name: measure(name) for name in ready}, rounds)
    finally:
        for process in running.values():
            process.__exit__()
    # On one replica BatchNorm sees the whole batch: another loss, rightly.
    alike = {n: r.losses for n, r in ready.items() if not (n == OURS and OURS_MIRRORED in ready)}
    difference = agreement(alike)
    check = {
        "workload": workload.name,
        "tolerance": LOSS_TOLERANCE,
        "agree": all(value <= LOSS_TOLERANCE for value in difference.values()),
        "losses": {name: value.losses for name, value in ready.items() if value.losses},
        "difference": difference,
    }
    versions: dict[str, str] = {}
    for value in ready.values():
        versions.update(value.versions)
    notes = {name: value.note for name, value in ready.items() if value.note}
    return Outcome(_rows(workload, ready, measured, peaks), check, notes, missing, versions)


def run(
    names: Sequence[str], workload_names: Sequence[str], *, rounds: int, seconds: float
) -> dict[str, Any]:
    """The whole race; what goes into the JSON file.

    Args:
      names: contenders, keys of `CONTENDERS`.
      workload_names: keys of `workloads.WORKLOADS`.
      rounds: rounds to interleave.
      seconds: about how long a contender runs in a round.
    """
    result: dict[str, Any] = {"machine": machine.describe(), "versions": machine.versions()}
    result |= {"rounds": rounds, "rows": [], "checks": [], "notes": {}, "missing": []}
    for name in workload_names:
        workload = workloads.WORKLOADS[name]
        outcome = run_workload(workload, names, rounds=rounds, seconds=seconds)
        result["rows"] += outcome.rows
        result["checks"].append(outcome.check)
        result["notes"][name] = outcome.notes
        result["missing"] += outcome.missing
        result["versions"] = {**outcome.versions, **result["versions"]}
        print_table(outcome)
    return result


def print_table(outcome: Outcome) -> None:
    """One line a contender: milliseconds, spread, ratio, compile seconds, peak memory."""
    print(f"{'workload':12} {'contender':14} {'ms':>9} {'min':>9} {'max':>9} {'ratio':>6}", end="")
    print(f" {'compile s':>9} {'RSS MB':>7}")
    for row in outcome.rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        print(
            f"{row['workload']:12} {row['contender']:14} {row['ms']:9.3f} {row['ms_min']:9.3f}"
            f" {row['ms_max']:9.3f} {ratio:>6} {row['compile_s']:9.1f}"
            f" {row['peak_rss_bytes'] / 1e6:7.0f}"
        )
    if not outcome.check["agree"]:
        print(f"first losses differ by more than {LOSS_TOLERANCE}: {outcome.check['difference']}")
    for line in outcome.missing:
        print(f"missing: {line}")
