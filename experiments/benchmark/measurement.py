"""What a measurement is to the command that runs it: a question, its choices, and its answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from experiments.benchmark.timing import MIN_ROUNDS

Row = dict[str, Any]
Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command's flags say."""

    quick: bool = False  # a short run
    workloads: Sequence[str] = ()  # names, in order
    contenders: Sequence[str] = ()  # names, in the order that they run within a round
    named: bool = False  # whether the user has named workloads or contenders
    rounds: int = MIN_ROUNDS  # rounds to interleave
    seconds: float = 1.0  # about how long a contender runs in a round
    # the most seconds until a contender is ready, and again for all its rounds
    limit: float = 240.0


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A question that `python -m experiments.benchmark NAME` answers."""

    # measures; yields parts of the JSON file as they are there, "rows" among them
    run: Callable[[Options], Iterator[Result]]
    workloads: Sequence[str] = ()  # names that may be given; empty where the question has none
    default: Sequence[str] = ()  # those that are measured, where it is not all
    quick: Sequence[str] = ()  # those that --quick measures, where it is not the default
    contenders: Sequence[str] = ()  # names that may be given
    # the default, and with --quick; 0 where there is nothing to repeat
    rounds: tuple[int, int] = (MIN_ROUNDS, MIN_ROUNDS)
    least_rounds: int = MIN_ROUNDS  # the fewest that may be given
    seconds: tuple[float, float] = (1.0, 0.3)  # the default of `Options.seconds`, and with --quick


def whole(parts: Iterable[Result], result: Result | None = None) -> Result:
    """All parts together: lists grow, and of dicts the entry that came first stays."""
    result = {} if result is None else result
    for name, value in (item for part in parts for item in part.items()):
        if isinstance(value, list):
            value = [*result.get(name, []), *value]
        elif isinstance(value, dict):
            value = {**value, **result.get(name, {})}
        result[name] = value
    return result
