"""Bad input, in one line: what, where, expected, found, how to mend."""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST_VALUE = 200


def one_line(value: object) -> str:
    """`value` as text without line breaks or control characters, cut at 200 characters."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def alternatives(names: Iterable[str]) -> str:
    """'a', 'a or b', 'a, b or c'."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


class InputError(Exception):
    """A flag, a file or an environment variable that the user has to mend.

    Attributes:
      where: the flag, or the file and the offset or entry in it.
      expected: what would be right.
      found: what is there.
      mend: what to do about it.
    """

    def __init__(self, where: str, *, expected: str, found: object, mend: str) -> None:
        self.where = one_line(where)
        self.expected = one_line(expected)
        self.found = one_line(found)
        self.mend = one_line(mend)
        super().__init__(
            f"{self.where}: expected {self.expected}, found {self.found}; to mend: {self.mend}"
        )
