"""What `--compile=auto` chooses, against every setting that it could have chosen.

Each candidate (a compiler and the most steps a call) trains in a process of its own, and so does
`auto` itself, from an empty cache, several times: a choice that is not the same each time is noise.
"""

from __future__ import annotations

import functools
import pathlib
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence

from experiments.benchmark import timing, workloads
from experiments.benchmark.measurement import Measurement, Options, Result, Row
from experiments.benchmark.measurements.steps import OURS
from experiments.benchmark.process import Process, Ready, fresh_caches
from experiments.benchmark.referee import CALL_SECONDS, Referee

# Those of `Mode` that compile; a contender `tapestep_<mode>` each.
MODES = ("graph", "xla")
CALL_LENGTHS, QUICK_CALL_LENGTHS = (1, 8, 64, 256), (1, 64)
TRIES, QUICK_TRIES = 3, 2
AUTO = "auto"

Setting = tuple[str, int]
"""Compiler, the most steps a call."""


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


def _tries(referee: Referee, workload: str, caches: pathlib.Path, tries: int) -> Iterator[Setting]:
    """What auto chose each time; the last one's process stays for the race."""
    for number in range(tries):
        referee.dismiss([AUTO])
        referee.admit(AUTO, functools.partial(Process, OURS, workload, caches / f"try{number}"))
        if AUTO in referee.ready:
            yield _setting(referee.ready[AUTO])


def _admit_candidates(
    referee: Referee, workload: str, caches: pathlib.Path, lengths: Sequence[int]
) -> None:
    """Starts every candidate, but those that would run as a shorter one does."""
    for mode in MODES:
        for length in lengths:
            name = f"{mode} x {length}"
            start = functools.partial(Process, f"tapestep_{mode}", workload, caches / name)
            referee.admit(name, functools.partial(start, steps_per_call=length))
            if name not in referee.ready or is_cut(length, referee.ready[name].ms):
                break


def rows(
    workload: str, heat: timing.Times, ready: dict[str, Ready], choices: Sequence[Setting]
) -> list[Row]:
    """A row for each candidate and one for auto's own process; ratios to the best candidate."""
    candidates = [name for name in heat if name != AUTO]
    best = min(candidates, key=lambda name: statistics.median(heat[name]))
    settings = [_setting(ready[name]) for name in candidates]
    chosen = Counter(candidate_of(choice, settings) for choice in choices)
    return [
        {
            "workload": workload,
            "candidate": name,
            "compile": ready[name].compile,
            "steps_per_call": ready[name].steps_per_call,
            **timing.spread("ms", milliseconds),
            "ratio": timing.median_ratio(milliseconds, heat[best]),
            "compile_s": ready[name].compile_s,
            "chosen": len(choices) if name == AUTO else chosen[_setting(ready[name])],
        }
        for name, milliseconds in heat.items()
    ]


def run(options: Options) -> Iterator[Result]:
    """Races the candidates on a workload after the other."""
    for workload in options.workloads:
        with fresh_caches() as caches, Referee(workload, options) as referee:
            tries = QUICK_TRIES if options.quick else TRIES
            choices = list(_tries(referee, workload, caches, tries))
            lengths = QUICK_CALL_LENGTHS if options.quick else CALL_LENGTHS
            _admit_candidates(referee, workload, caches, lengths)
            heat = referee.race([*(name for name in referee.ready if name != AUTO), AUTO])
        raced = any(name != AUTO for name in heat)
        shown = [{"compile": compile, "steps_per_call": steps} for compile, steps in choices]
        yield {
            "rows": [
                *(rows(workload, heat, referee.ready, choices) if raced else []),
                *(
                    {"workload": workload, "candidate": name, "skipped": reason}
                    for name, reason in referee.skipped.items()
                ),
            ],
            "choices": [{"workload": workload, "tries": shown}],
            "missing": referee.missing,
        }


MEASUREMENT = Measurement(run, workloads=tuple(workloads.WORKLOADS), quick=("tiny",))
