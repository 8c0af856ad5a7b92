"""The full matrix of the replica tests, printed as one table: `make equivalence`.

Every combination of model, optimizer, accumulation, BatchNorm, dividing batch and compile mode, in
float64 on 2 and 4 virtual devices and 2 worker processes, against one replica: 100 steps, the
largest relative difference of rows and final state. Then float32, each step from the same state.
A float32 case beyond the limit is followed by its control: one replica, each step from the same
state, the examples of the batch in another order. Takes about an hour on two cores; `--only=TEXT`
runs the cases whose name has the text.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence

from tests.replicas import pairwise, runs
from tests.replicas.cases import Case

_LIMITS = {"float64": 1e-10, "float32": 1e-5}
_REPLICAS = (2, 4, 0)
_IN_A_PROCESS = 12


def all_cases() -> Iterator[Case]:
    """The combinations; XLA refuses a synchronised BatchNorm on CPU replicas."""
    for model, optimizer, accumulate, batch_size, mode, norm in itertools.product(
        ("mlp", "cnn", "embedding"),
        ("momentum", "adam"),
        (1, 4),
        (16, 12),
        ("graph", "xla"),
        ("none", "synchronized"),
    ):
        if (mode, norm) == ("xla", "synchronized"):
            continue
        # 12 divides among 4 replicas, but its micro-batches of 3 do not; 10 divides among none.
        size = 10 if (batch_size, accumulate) == (12, 1) else batch_size
        for dtype in ("float64", "float32"):
            yield Case(
                name=f"{dtype}-{mode}-{model}-{optimizer}-x{accumulate}-{size}-{norm}",
                dtype=dtype,
                mode=mode,
                model=model,
                optimizer=optimizer,
                accumulate=accumulate,
                batch_size=size,
                batch_norm=norm,
                stepwise=dtype == "float32",
                bits=dtype == "float64",
            )


def _difference(case: Case, one: runs.Result, several: runs.Result) -> float:
    if case.stepwise:
        # Adam's weights are held by the moments, see the tests.
        names = [
            name
            for name in one.part("states")
            if case.optimizer != "adam" or not name.startswith("model/")
        ]
        return max(runs.step_differences(one, several, names))
    return max(runs.largest_difference(one.part(p), several.part(p))[0] for p in ("row", "state"))


def _same_bits(one: runs.Result, several: runs.Result) -> bool:
    bits, others = one.part("bits"), several.part("bits")
    return all((bits[name] == others[name]).all() for name in bits)


def _failed(cases: Sequence[Case], out: pathlib.Path) -> list[str]:
    """Runs cases everywhere and prints a line each; those that are not within the limits."""
    for count in (1, *_REPLICAS):
        runs.finish(runs.start(out, cases, count))
    failed = []
    for case in cases:
        one = runs.read(out, case.name, 1)
        cells = []
        for count in _REPLICAS:
            several = runs.read(out, case.name, count or "workers")
            difference = _difference(case, one, several)
            right = difference < _LIMITS[case.dtype] and _same_bits(one, several)
            right = right and not several.seen["copies_differ"]
            cells.append(f"{difference:.1e}{' ' if right else '!'}  ")
        if any("!" in cell for cell in cells):
            failed.append(case.name)
            if case.stepwise:
                cells.append(f"one replica, batches reordered: {_by_order(case, one, out):.1e}")
        print(f"{case.name:48}", *cells, flush=True)
    return failed


def _by_order(case: Case, one: runs.Result, out: pathlib.Path) -> float:
    """What the order of the sums alone makes of each step: how far rounding reaches here."""
    control = dataclasses.replace(
        case, name=f"{case.name}-control", permuted=True, control_of=case.name
    )
    runs.finish(runs.start(out, [control], 1))
    return _difference(case, one, runs.read(out, control.name, 1))


def _print_control(out: pathlib.Path) -> None:
    """What 100 free float32 steps part by, beside one replica with its batches reordered."""
    case, count = pairwise.FLOAT32["single-precision"]
    runs.run(out, [(case, count), (pairwise.CONTROL, None)])
    one = runs.read(out, case.name, 1)
    state = one.part("state")
    for label, other in (
        (f"{count} replicas", runs.read(out, case.name, count or "workers")),
        ("one replica, batches reordered", runs.read(out, pairwise.CONTROL.name, 1)),
    ):
        difference, _ = runs.largest_difference(state, other.part("state"))
        print(f"float32, 100 free steps, {label}: {difference:.1e}")


def main() -> int:
    """Prints the table; 1 where a line is not within the limits, marked with "!"."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    only = parser.parse_args().only
    cases = [case for case in all_cases() if only in case.name]
    with contextlib.ExitStack() as stack:
        out = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        print(f"{'case':48}", *(f"{c} replicas" if c else "2 workers" for c in _REPLICAS))
        failed = []
        for first in range(0, len(cases), _IN_A_PROCESS):
            failed += _failed(cases[first : first + _IN_A_PROCESS], out)
        _print_control(out)
    print(f"{len(cases)} cases on 3 kinds of replicas, {len(failed)} not within the limits")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
