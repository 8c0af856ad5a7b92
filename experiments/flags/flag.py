"""What a flag is, and how a field of the settings declares one with all its facts."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, ParamSpec

from experiments.entry.errors import alternatives

Kind = Literal["choice", "int", "float", "bool", "text", "ints", "floats"]
Life = Literal["run", "process", "command"]

_NOUNS: dict[Kind, str] = {
    "int": "a whole number",
    "float": "a number",
    "ints": "whole numbers separated by commas",
    "floats": "numbers separated by commas",
    "bool": "true or false",
    "text": "text",
    "choice": "a choice",
}
_KINDS: dict[Any, Kind] = {
    int: "int",
    float: "float",
    bool: "bool",
    str: "text",
    tuple[int, ...]: "ints",
    tuple[float, ...]: "floats",
}
INT64_MAX = 2**63 - 1
INT32_MAX = 2**31 - 1
FLOAT32_LARGEST = 3.4028234e38
FLOAT32_SMALLEST = 1.1754944e-38


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag and its facts.

    Attributes:
      default: None where nothing is meant, or another part of the program works it out.
      help: one sentence.
      low: the least number allowed.
      high: the greatest, or None.
      above: whether `low` itself is not allowed.
      below: whether `high` itself is not allowed.
      choices: of a "choice"; by default those of the field's Literal.
      by: (another flag, its values -> this flag's default beside them); `default` beside others.
      only_with: (another flag, its values that give this one a meaning), or None.
      needs: other flags; one of them must be on if this one is not at its default.
      check: raises InputError where a text is wrong; takes the flag's name and the text.
      lives: "run" where a resume must have the same value; "process" where each resume may have
        another; "command" where it is asked for once: it is not stored with the run either.
      replayed: whether `experiments.replay` takes it over from the run.
      sweep: "over" where `--sweep` may have it, "beside" where each run of a sweep takes the same
        value, "never" where all runs would do the same thing; by default as the kind says.
      shown: what `--help` writes for the value of a "text".
      name: without dashes, the field's.
      group: its heading in `--help`, the name of the field's class.
      kind: what its value is, by the field's type.
    """

    default: Any
    help: str
    low: float = 0.0
    high: float | None = None
    above: bool = False
    below: bool = False
    choices: tuple[str, ...] = ()
    by: tuple[str, Mapping[str, Any]] | None = None
    only_with: tuple[str, tuple[str, ...]] | None = None
    needs: tuple[str, ...] = ()
    check: Callable[[str, str], object] | None = None
    lives: Life = "run"
    replayed: bool = True
    sweep: Literal["over", "beside", "never"] | None = None
    shown: str = "PATH"
    name: str = ""
    group: str = ""
    kind: Kind = "text"

    @property
    def unless_given(self) -> Any:
        """The value of absl's flag: None where other flags decide."""
        return None if self.by else self.default

    @property
    def written_default(self) -> str | None:
        """The default as a user would write it; None where it depends, or nothing is meant."""
        return None if self.unless_given in (None, ()) else str(self.default)

    @property
    def usage(self) -> str:
        """How it is given: `--steps=N`."""
        if self.kind == "bool":
            return f"--[no]{self.name}"
        values = {"choice": "|".join(self.choices), "text": self.shown}
        return f"--{self.name}={values.get(self.kind, 'N')}"

    @property
    def sweepable(self) -> bool:
        """Whether `--sweep` may have it: texts hold commas, or name what every run would write."""
        one_value = self.kind in ("choice", "int", "float", "bool") and self.lives != "command"
        return one_value and self.sweep in ("over", None)

    def default_beside(self, values: Mapping[str, Any]) -> Any:
        """The default beside the values of the other flags."""
        if self.by is None:
            return self.default
        other, defaults = self.by
        return defaults.get(values[other], self.default)

    @property
    def expected(self) -> str:
        """What a value must be, for error messages."""
        if self.kind == "choice":
            return alternatives(self.choices)
        text = _NOUNS[self.kind]
        if self.kind in ("bool", "text"):
            return text
        text += f" above {self.low:g}" if self.above else f" from {self.low:g}"
        if self.high is not None and self.high < INT32_MAX:
            joint = " and" if self.above else ""
            text += f"{joint} below {self.high:g}" if self.below else f"{joint} to {self.high:g}"
        elif self.kind in ("float", "floats") and self.above:
            text += ", within float32"
        elif not self.above:
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
        if number < self.low or (self.above and number == self.low):
            return False
        return not (
            self.high is not None and (number > self.high or (self.below and number == self.high))
        )


_Facts = ParamSpec("_Facts")


def _field_with(make: Callable[_Facts, Flag]) -> Callable[_Facts, Any]:
    def field(*args: _Facts.args, **kwargs: _Facts.kwargs) -> Any:
        return dataclasses.field(metadata={"flag": make(*args, **kwargs)})

    return field


flag = _field_with(Flag)
"""A dataclass's field with a flag of its name; takes the arguments of `Flag`."""


def of_fields(settings: type) -> tuple[Flag, ...]:
    """The flags that the fields of a dataclass and of its bases declare, in their order."""
    hints = typing.get_type_hints(settings)
    groups = {
        name: re.sub("(?<!^)([A-Z])", r" \1", owner.__name__).lower()
        for owner in reversed(settings.__mro__)
        for name in vars(owner).get("__annotations__", ())
    }
    found = []
    for field in dataclasses.fields(settings):
        declared: Flag = field.metadata["flag"]
        # Of `float | None` the float.
        kind, *_ = [each for each in _alternatives_of(hints[field.name]) if each is not type(None)]
        choices = declared.choices
        if typing.get_origin(kind) is Literal:
            choices = typing.get_args(kind)
        found.append(
            dataclasses.replace(
                declared,
                name=field.name,
                group=groups[field.name],
                choices=choices,
                kind="choice" if choices else _KINDS[kind],
            )
        )
    return tuple(found)


def _alternatives_of(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if union else (hint,)
