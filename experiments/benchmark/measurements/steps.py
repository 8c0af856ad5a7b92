"""Whole training steps, raced against other frameworks."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Collection, Iterator, Sequence

from experiments.benchmark import timing, workloads
from experiments.benchmark.contenders.table import CONTENDERS
from experiments.benchmark.measurement import Measurement, Options, Result, Row
from experiments.benchmark.process import Process, fresh_caches
from experiments.benchmark.referee import Referee, check, steps_a_call

OURS, OURS_LAZY, OURS_BFLOAT16 = "tapestep", "tapestep_lazy", "tapestep_bf16"
OURS_MIRRORED = "tapestep_mirrored"
# Ours in bfloat16 is a contender as any other: its ratio is ours in float32 divided by it, and
# 1 / 0.65 is its goal.
RACED = (
    *(OURS, OURS_LAZY, OURS_BFLOAT16, "keras_default", "keras_best", "plain_graph"),
    *("orbit_graph", "orbit_xla", "jax_step", "jax_scan", "torch_eager", "torch_compile"),
    *("bare", "floor"),
)

# On sparse gradients Adam has two meanings: every row moves (TensorFlow, Keras, optax), or only
# the batch's rows do (PyTorch). We offer both; each contender is compared with ours of its meaning.
SPARSE_WORKLOAD = "embedding"
LAZY = (OURS_LAZY, "torch_eager", "torch_compile")
# A table, its moments and their copies take up to 2.5 GB in each contender's process; so many
# others are alive at once there, beside both of ours.
SPARSE_AT_ONCE = 3

# Half a minute of searching and compiling; --workloads=mlp has them.
QUICK_LEFT_OUT = {"mlp": ("keras_best", "torch_compile", OURS_BFLOAT16)}


def ours_for(workload: str, contender: str, names: Collection[str] = ()) -> str:
    """Which of ours a contender's ratio is taken against, where `names` ran."""
    if OURS_MIRRORED in names:
        return OURS_MIRRORED
    return OURS_LAZY if workload == SPARSE_WORKLOAD and contender in LAZY else OURS


def rows(
    workload: str, names: Sequence[str], heats: Sequence[timing.Times], done: Referee
) -> list[Row]:
    """The rows of one workload: those with times, then those that were skipped.

    A heat is the times of contenders that were alive together. A contender's times are those of all
    its heats; a ratio is of rounds of the same heat.
    """
    found: list[Row] = []
    for name in names:
        ran = [heat for heat in heats if name in heat]
        if not ran:
            continue
        ours = ours_for(workload, name, ran[0])
        pairs = [pair for h in ran if ours in h for pair in zip(h[ours], h[name], strict=True)]
        found.append(
            {
                "workload": workload,
                "contender": name,
                **timing.spread("ms", [ms for heat in ran for ms in heat[name]]),
                "compile_s": done.ready[name].compile_s,
                "peak_rss_bytes": done.peaks[name],
                "ratio": timing.median_ratio(*zip(*pairs, strict=True)) if pairs else None,
            }
        )
    for name, reason in done.skipped.items():
        found.append({"workload": workload, "contender": name, "skipped": reason})
    return found


def groups(workload: str, names: Sequence[str]) -> list[Sequence[str]]:
    """The contenders by who is alive at once: all, where their memory allows it."""
    size = SPARSE_AT_ONCE if workload == SPARSE_WORKLOAD else max(1, len(names))
    return [names[i : i + size] for i in range(0, len(names), size)] or [[]]


def _race(workload: str, names: Sequence[str], caches: pathlib.Path, options: Options) -> Result:
    """One workload's part of the JSON file."""
    staying = [name for name in names if name in (OURS, OURS_LAZY, OURS_MIRRORED)]
    heats: list[timing.Times] = []
    with Referee(workload, options) as referee:

        def admit(name: str) -> None:
            steps = 0
            if name == "bare" and OURS in referee.ready:  # as many steps a call as ours
                steps = steps_a_call(referee.ready[OURS])
            start = functools.partial(Process, name, workload, caches / name, steps_per_call=steps)
            referee.admit(name, start)

        for name in staying:
            admit(name)
        for group in groups(workload, [name for name in names if name not in staying]):
            for name in group:
                admit(name)
            heats.append(referee.race([name for name in names if name in {*staying, *group}]))
            referee.dismiss(group)
    losses = {name: one.losses for name, one in referee.ready.items()}
    # On one replica BatchNorm sees the whole batch: another loss, rightly.
    apart = (OURS,) if OURS_MIRRORED in losses else ()
    return {
        "rows": rows(workload, names, heats, referee),
        "checks": [check(workload, losses, apart)],
        "notes": {workload: {name: one.note for name, one in referee.ready.items() if one.note}},
        "missing": referee.missing,
        "versions": {k: v for one in referee.ready.values() for k, v in one.versions.items()},
    }


def run(options: Options) -> Iterator[Result]:
    """Races the contenders on a workload after the other."""
    left_out = QUICK_LEFT_OUT if options.quick and not options.named else {}
    with fresh_caches() as caches:
        for workload in options.workloads:
            names = [
                name
                for name in options.contenders
                if workload in (CONTENDERS[name].workloads or (workload,))
                and name not in left_out.get(workload, ())
            ]
            yield _race(workload, names, caches, options)


MEASUREMENT = Measurement(
    run, workloads=tuple(workloads.WORKLOADS), quick=("tiny", "mlp"), contenders=RACED
)
