"""What `--compile=auto` chooses, against every setting that it could have chosen.

Each candidate (a compiler and the most steps a call) trains in a process of its own, and so does
`auto` itself, from an empty cache, several times: a choice that is not the same each time is noise.
"""

from __future__ import annotations

import functools
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from experiments.benchmark import machine, race, timing, workloads
from experiments.benchmark.process import Process, Ready, fresh_caches
from experiments.benchmark.referee import CALL_SECONDS, Referee

# Those of `Mode` that compile; a contender `tapestep_<mode>` each.
MODES = ("graph", "xla")
CALL_LENGTHS = (1, 8, 64, 256)
QUICK_CALL_LENGTHS = (1, 64)
QUICK_WORKLOADS = ("tiny",)
TRIES, QUICK_TRIES = 3, 2
AUTO = "auto"
GOAL = 1.05

Setting = tuple[str, int]
"""Compiler, the most steps a call."""


def name_of(setting: Setting) -> str:
    """As the table has it."""
    return f"{setting[0]} x {setting[1]}"


def is_cut(steps: int, ms: float) -> bool:
    """Whether a trainer would cut a call of `steps` steps, to about a second."""
    return steps * ms >= CALL_SECONDS * 1e3


def candidate_of(choice: Setting, candidates: Sequence[Setting]) -> Setting | None:
    """The candidate that runs as `choice` does.

    It has the same compiler and the most steps a call that are not more. Where that is fewer, the
    trainer cuts the calls of both alike.
    """
    same = [one for one in candidates if one[0] == choice[0] and one[1] <= choice[1]]
    return max(same, key=lambda one: one[1], default=None)


def _setting(ready: Ready) -> Setting:
    return ready.compile, ready.steps_per_call


def _tries(
    referee: Referee, workload: workloads.Workload, caches: pathlib.Path, tries: int
) -> list[Setting]:
    """What auto chose each time; the last one's process stays for the race."""
    choices = []
    for number in range(tries):
        referee.dismiss([AUTO])
        referee.admit(
            AUTO, functools.partial(race.start, race.OURS, workload, caches / f"try{number}")
        )
        if AUTO in referee.ready:
            choices.append(_setting(referee.ready[AUTO]))
    return choices


def _admit_candidates(
    referee: Referee, workload: workloads.Workload, caches: pathlib.Path, lengths: Sequence[int]
) -> list[Setting]:
    """Starts every candidate, but those that would run as a shorter one does."""
    admitted = []
    for mode in MODES:
        for length in lengths:
            setting = (mode, length)
            start = functools.partial(
                Process, f"tapestep_{mode}", workload.name, length, caches=caches / name_of(setting)
            )
            referee.admit(name_of(setting), start)
            if name_of(setting) not in referee.ready:
                break
            admitted.append(setting)
            if is_cut(length, referee.ready[name_of(setting)].ms):
                break
    return admitted


def rows(
    workload: str, heat: race.Heat, ready: dict[str, Ready], choices: Sequence[Setting]
) -> list[dict[str, Any]]:
    """A row for each candidate and one for auto's own process; ratios to the best candidate."""
    candidates = [name for name in heat if name != AUTO]
    best = min(candidates, key=lambda name: timing.summarize(heat[name]).median)
    settings = [_setting(ready[name]) for name in candidates]
    chosen = Counter(candidate_of(choice, settings) for choice in choices)
    found = []
    for name, milliseconds in heat.items():
        compile, steps = _setting(ready[name])
        summary = timing.summarize(milliseconds)
        row = {"workload": workload, "candidate": name, "compile": compile, "steps_per_call": steps}
        row |= {"ms": summary.median, "ms_min": summary.minimum, "ms_max": summary.maximum}
        row |= {"ratio": timing.median_ratio(milliseconds, heat[best])}
        row |= {"compile_s": ready[name].compile_s}
        found.append(row | {"chosen": len(choices) if name == AUTO else chosen[(compile, steps)]})
    return found


def run(
    workload_names: Sequence[str], *, quick: bool, rounds: int, seconds: float, limit: float
) -> dict[str, Any]:
    """Races the candidates on each workload; what goes into the JSON file.

    Args:
      workload_names: keys of `workloads.WORKLOADS`.
      quick: fewer candidates and tries.
      rounds: rounds to interleave.
      seconds: about how long a candidate runs in a round.
      limit: see `Referee`.
    """
    result: dict[str, Any] = {"machine": machine.describe(), "versions": machine.versions()}
    result |= {"rounds": rounds, "rows": [], "choices": [], "missing": []}
    for name in workload_names:
        workload = workloads.WORKLOADS[name]
        with (
            fresh_caches() as caches,
            Referee(name, rounds=rounds, seconds=seconds, limit=limit) as referee,
        ):
            choices = _tries(referee, workload, caches, QUICK_TRIES if quick else TRIES)
            lengths = QUICK_CALL_LENGTHS if quick else CALL_LENGTHS
            settings = _admit_candidates(referee, workload, caches, lengths)
            heat = referee.race([*map(name_of, settings), AUTO])
        if any(each != AUTO for each in heat):
            result["rows"] += rows(name, heat, referee.ready, choices)
        result["rows"] += [
            {"workload": name, "candidate": each, "skipped": reason}
            for each, reason in referee.skipped.items()
        ]
        shown = [{"compile": compile, "steps_per_call": steps} for compile, steps in choices]
        result["choices"].append({"workload": name, "tries": shown})
        result["missing"] += referee.missing
    return result
