"""The race of whole steps: who takes part, on what, and the rows that come of it."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from experiments.benchmark import machine, timing, workloads
from experiments.benchmark.process import Process, fresh_caches
from experiments.benchmark.referee import Referee, steps_a_call

Row = dict[str, Any]
OURS = "tapestep"

# Contender -> the environment in .venv-peers it runs in; None for our own.
CONTENDERS: dict[str, str | None] = {
    "tapestep": None,
    "tapestep_lazy": None,
    "tapestep_bf16": None,
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
# A table, its moments and their copies take up to 2.5 GB in each contender's process; so many
# peers are alive at once there, beside both of ours.
SPARSE_PEERS_AT_ONCE = 3

# Ours in bfloat16. As of any contender its ratio is ours in float32 divided by it: 1 / 0.65 is its
# goal.
OURS_BFLOAT16 = "tapestep_bf16"

# Contenders that are in the race on some workloads alone.
ONLY_ON: dict[str, tuple[str, ...]] = {
    OURS_LAZY: (SPARSE_WORKLOAD,),
    OURS_BFLOAT16: ("mlp", "cnn", "resnet20"),  # whose inputs are floating
}

# First losses further apart than this mean that two contenders do not compute the same thing; it
# leaves room for float32 sums in another order.
LOSS_TOLERANCE = 2e-3
# optax and PyTorch add Adam's epsilon to the corrected root. That alone parts them from
# TensorFlow's by 5e-3 at the third step of `mlp` (PyTorch with TensorFlow's epsilon at step 1,
# 1e-7 / sqrt(1 - beta2), has TensorFlow's loss).
EPSILON_TOLERANCE = 8e-3
OTHER_EPSILON = ("jax_step", "jax_scan", "torch_eager", "torch_compile")
# bfloat16 has 8 bits: a rounding is 4e-3, and the logits' and the losses' partly cancel.
BFLOAT16_TOLERANCE = 3e-2

# Seconds until a contender is ready, and again for all its rounds.
LIMIT_SECONDS = 240.0


def agreement(losses: dict[str, list[float]]) -> dict[str, float]:
    """How far each contender's first losses are from the median contender's, relatively.

    Contenders without losses (the floor trains nothing) are left out; only those of the narrowest
    tolerance have a say in what the median is, where there are any.
    """
    stated = {name: values for name, values in losses.items() if values}
    exact = [values for name, values in stated.items() if tolerance(name) == LOSS_TOLERANCE]
    steps = list(zip(*(exact or stated.values()), strict=True))
    middle = [timing.summarize(step).median for step in steps]
    return {
        name: max(abs(a - b) / max(abs(b), 1e-3) for a, b in zip(values, middle, strict=True))
        for name, values in stated.items()
    }


def tolerance(contender: str) -> float:
    """How far the first losses of a contender may be from the others'."""
    if contender == OURS_BFLOAT16:
        return BFLOAT16_TOLERANCE
    return EPSILON_TOLERANCE if contender in OTHER_EPSILON else LOSS_TOLERANCE


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


Heat = dict[str, list[float]]
"""Milliseconds a step in each round, of contenders that were alive at the same time."""


def rows(workload: str, names: Sequence[str], heats: Sequence[Heat], done: Referee) -> list[Row]:
    """The JSON file's rows of one workload: those with times, then those that were skipped.

    A contender's times are those of all its heats; a ratio is of rounds of the same heat.
    """
    found: list[Row] = []
    for name in names:
        ran = [heat for heat in heats if name in heat]
        if not ran:
            continue
        summary = timing.summarize([ms for heat in ran for ms in heat[name]])
        ours = ours_for(workload, name, ran[0])
        pairs = [pair for h in ran if ours in h for pair in zip(h[ours], h[name], strict=True)]
        found.append(
            {
                "workload": workload,
                "contender": name,
                "ms": summary.median,
                "ms_min": summary.minimum,
                "ms_max": summary.maximum,
                "compile_s": done.ready[name].compile_s,
                "peak_rss_bytes": done.peaks[name],
                "ratio": timing.median_ratio(*zip(*pairs, strict=True)) if pairs else None,
            }
        )
    for name, reason in done.skipped.items():
        found.append({"workload": workload, "contender": name, "skipped": reason})
    return found


def start(
    name: str,
    workload: workloads.Workload,
    caches: pathlib.Path,
    *,
    steps_per_call: int = 0,
    start_up: bool = False,
) -> Process:
    """Starts a contender's process.

    Args:
      name: the contender.
      workload: what it trains.
      caches: a folder in which it gets one of its own: ours in bfloat16 must not take up what ours
        in float32 has chosen.
      steps_per_call: 0 for the workload's.
      start_up: see `Process`.

    Raises:
      ContenderError: where its environment is not installed.
    """
    return Process(
        name,
        workload.name,
        steps_per_call or workload.steps_per_call,
        peer={**CONTENDERS, **REPLICA_CONTENDERS}[name],
        caches=caches / name,
        start_up=start_up,
    )


def _groups(workload: str, names: Sequence[str]) -> list[list[str]]:
    """The peers by who is alive at once: all, where their memory allows it."""
    size = SPARSE_PEERS_AT_ONCE if workload == SPARSE_WORKLOAD else max(1, len(names))
    return [list(names[i : i + size]) for i in range(0, len(names), size)] or [[]]


def run_workload(
    workload: workloads.Workload,
    names: Sequence[str],
    caches: pathlib.Path,
    *,
    rounds: int,
    seconds: float,
    limit: float,
) -> Outcome:
    """Races the named contenders on one workload.

    Args:
      workload: what they train.
      names: the contenders, in the order they run within a round.
      caches: see `start`.
      rounds: rounds to interleave.
      seconds: about how long a contender runs in a round.
      limit: see `Referee`.
    """
    names = [name for name in names if workload.name in ONLY_ON.get(name, (workload.name,))]
    staying = [name for name in names if name in (OURS, OURS_LAZY, OURS_MIRRORED)]
    heats: list[Heat] = []
    with Referee(workload.name, rounds=rounds, seconds=seconds, limit=limit) as referee:

        def admit(name: str) -> None:
            steps = 0
            if name == "bare" and OURS in referee.ready:  # what it is compared at: as many a call
                steps = steps_a_call(referee.ready[OURS])
            referee.admit(name, lambda: start(name, workload, caches, steps_per_call=steps))

        for name in staying:
            admit(name)
        for group in _groups(workload.name, [n for n in names if n not in staying]):
            for name in group:
                admit(name)
            heats.append(referee.race([name for name in names if name in {*staying, *group}]))
            referee.dismiss(group)
    ready = referee.ready
    versions = {key: version for one in ready.values() for key, version in one.versions.items()}
    notes = {name: one.note for name, one in ready.items() if one.note}
    return Outcome(
        rows(workload.name, names, heats, referee),
        _check(workload.name, {name: one.losses for name, one in ready.items()}),
        notes,
        referee.missing,
        versions,
    )


def _check(workload: str, losses: dict[str, list[float]]) -> dict[str, Any]:
    """Whether the first losses agree."""
    # On one replica BatchNorm sees the whole batch: another loss, rightly.
    apart = {OURS} if OURS_MIRRORED in losses else set()
    difference = agreement({name: each for name, each in losses.items() if name not in apart})
    return {
        "workload": workload,
        "tolerance": {name: tolerance(name) for name in difference},
        "agree": all(value <= tolerance(name) for name, value in difference.items()),
        "losses": {name: each for name, each in losses.items() if each},
        "difference": difference,
    }


def run(
    names: Sequence[str],
    workload_names: Sequence[str],
    *,
    rounds: int,
    seconds: float,
    limit: float = LIMIT_SECONDS,
    left_out: Mapping[str, Collection[str]] | None = None,
    save: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """The whole race; what goes into the JSON file.

    Args:
      names: contenders, keys of `CONTENDERS`.
      workload_names: keys of `workloads.WORKLOADS`.
      rounds: rounds to interleave.
      seconds: about how long a contender runs in a round.
      limit: see `Referee`.
      left_out: workload -> contenders that do not race on it.
      save: given the result so far after each workload.
    """
    result: dict[str, Any] = {"machine": machine.describe(), "versions": machine.versions()}
    result |= {"rounds": rounds, "rows": [], "checks": [], "notes": {}, "missing": []}
    with fresh_caches() as caches:
        for name in workload_names:
            workload = workloads.WORKLOADS[name]
            without = (left_out or {}).get(name, ())
            racing = [each for each in names if each not in without]
            outcome = run_workload(
                workload, racing, caches, rounds=rounds, seconds=seconds, limit=limit
            )
            result["rows"] += outcome.rows
            result["checks"].append(outcome.check)
            result["notes"][name] = outcome.notes
            result["missing"] += outcome.missing
            result["versions"] = {**outcome.versions, **result["versions"]}
            print_table(outcome)
            save(result)
    return result


def print_table(outcome: Outcome) -> None:
    """One line a contender: milliseconds, spread, ratio, compile seconds, peak memory."""
    print(f"{'workload':12} {'contender':14} {'ms':>9} {'min':>9} {'max':>9} {'ratio':>6}", end="")
    print(f" {'compile s':>9} {'RSS MB':>7}")
    for row in outcome.rows:
        if "skipped" in row:
            continue
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        print(
            f"{row['workload']:12} {row['contender']:14} {row['ms']:9.3f} {row['ms_min']:9.3f}"
            f" {row['ms_max']:9.3f} {ratio:>6} {row['compile_s']:9.1f}"
            f" {row['peak_rss_bytes'] / 1e6:7.0f}"
        )
    if not outcome.check["agree"]:
        print(f"first losses differ by too much: {outcome.check['difference']}")
