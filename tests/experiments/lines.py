"""What every line about bad input must be."""

from __future__ import annotations

from experiments.entry.errors import InputError


def check(error: InputError, named: str) -> None:
    """It names what it should, says the four parts, and is one printable line."""
    line = str(error)
    assert named in line
    assert "\n" not in line
    assert line.isprintable()
    for word in (": expected ", ", found ", "; to mend: "):
        assert word in line
    assert len(line) < 1000
