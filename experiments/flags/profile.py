"""Reads `--profile`."""

from __future__ import annotations

from experiments.entry.errors import InputError


def profiled_steps(text: str) -> tuple[int, int]:
    """The first and last step of `--profile`.

    Raises:
      InputError: if it is not FIRST:LAST, 1 <= FIRST < LAST.
    """
    first, _, last = text.partition(":")
    if first.isdecimal() and last.isdecimal() and 1 <= int(first) < int(last):
        return int(first), int(last)
    raise InputError(
        "--profile",
        expected="FIRST:LAST with 1 <= FIRST < LAST",
        found=text or "nothing",
        mend="give for example --profile=100:110; the first step compiles",
    )
