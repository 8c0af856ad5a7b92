"""Reads `--sweep`."""

from __future__ import annotations

from typing import NoReturn

from experiments.entry.errors import InputError
from experiments.flags.settings import BY_NAME


def grid_of(text: str) -> dict[str, list[str]]:
    """Flag -> its values, of "learning_rate=.1,.03;seed=1,2".

    The values are checked with the run they belong to.

    Raises:
      InputError: on anything else.
    """
    grid: dict[str, list[str]] = {}
    for part in text.split(";"):
        name, equals, values = part.partition("=")
        name = name.strip()
        texts = [value.strip() for value in values.split(",")]
        if not name or not equals or not all(texts):
            _refuse("flag=value,value;flag=value", part.strip() or "nothing", "correct it")
        flag = BY_NAME.get(name)
        if flag is None:
            _refuse("the names of flags", name, "--help lists the flags")
        if not flag.sweepable:
            _refuse("flags of one number or choice each", name, f"give --{name} beside it")
        if name in grid or len(set(texts)) < len(texts):
            _refuse("each flag and each of its values once", part.strip(), "remove the second")
        grid[name] = texts
    return grid


def _refuse(expected: str, found: str, mend: str) -> NoReturn:
    raise InputError("--sweep", expected=expected, found=found, mend=mend)
