"""The table of faults: tried, survived, lost."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable


@dataclasses.dataclass
class Count:
    """How often one kind of fault was caused, and how it ended."""

    name: str
    tried: int = 0
    survived: int = 0
    losses: list[str] = dataclasses.field(default_factory=list)

    def add(self, loss: str | None, times: int = 1) -> None:
        """Counts faults that ended alike; `loss` says what was lost, if anything."""
        self.tried += times
        if loss is None:
            self.survived += times
        else:
            self.losses += [loss] * times


def progress(count: Count) -> None:
    """Says on stderr that a kind of fault is done, since the table comes after hours."""
    done = f"{count.survived} of {count.tried} survived"
    print(f"{count.name}: {done}", file=sys.stderr, flush=True)


def show(counts: Iterable[Count]) -> int:
    """Prints the table, and some of the losses on stderr; 1 if anything was lost, else 0."""
    counts = list(counts)
    print(f"{'fault':44}  {'tried':>6}  {'survived':>8}  {'lost':>5}")
    for count in counts:
        lost = len(count.losses)
        print(f"{count.name:44}  {count.tried:6}  {count.survived:8}  {lost:5}", flush=True)
    for count in counts:
        for loss in count.losses[:5]:
            print(f"{count.name}: {loss}", file=sys.stderr)
    return 1 if any(count.losses for count in counts) else 0
