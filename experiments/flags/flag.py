"""What a flag is: its kind, default and range, and which other flag gives it a meaning."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from experiments.entry.errors import alternatives

Kind = Literal["choice", "int", "float", "bool", "text", "ints", "floats"]

_NOUNS: dict[Kind, str] = {
    "int": "a whole number",
    "float": "a number",
    "ints": "whole numbers separated by commas",
    "floats": "numbers separated by commas",
    "bool": "true or false",
    "text": "text",
    "choice": "a choice",
}
INT64_MAX = 2**63 - 1
INT32_MAX = 2**31 - 1
FLOAT32_LARGEST = 3.4028234e38
FLOAT32_SMALLEST = 1.1754944e-38


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag.

    Attributes:
      name: without dashes; also the name of its field in `Settings`.
      group: the heading it stands under in `--help`.
      kind: what its value is.
      default: None where `flags.parse` works it out or nothing is meant.
      help: one sentence.
      choices: of a "choice".
      low: the least number allowed, or None.
      high: the greatest, or None.
      above: whether `low` itself is not allowed.
      below: whether `high` itself is not allowed.
      only_with: (another flag, its values that give this one a meaning), or None.
      shown: what `--help` writes for the value of a "text".
    """

    name: str
    group: str
    kind: Kind
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    above: bool = False
    below: bool = False
    only_with: tuple[str, tuple[str, ...]] | None = None
    shown: str = "PATH"

    @property
    def expected(self) -> str:
        """What a value must be, for error messages."""
        if self.kind == "choice":
            return alternatives(self.choices)
        text = _NOUNS[self.kind]
        if self.low is not None:
            text += f" above {self.low:g}" if self.above else f" from {self.low:g}"
        if self.high is not None and self.high < INT32_MAX:
            joint = " and" if self.above else ""
            text += f"{joint} below {self.high:g}" if self.below else f"{joint} to {self.high:g}"
        elif self.kind in ("float", "floats") and self.above:
            text += ", within float32"
        elif self.low is not None and not self.above:
            text += " up"
        return text

    def admits(self, number: float) -> bool:
        """Whether a number lies in the range; float32 must be able to hold a "float"."""
        if self.kind in ("float", "floats"):
            size = abs(number)
            if not math.isfinite(number) or size > FLOAT32_LARGEST:
                return False
            if 0 < size < FLOAT32_SMALLEST:
                return False
        if self.low is not None and (number < self.low or (self.above and number == self.low)):
            return False
        return not (
            self.high is not None and (number > self.high or (self.below and number == self.high))
        )
