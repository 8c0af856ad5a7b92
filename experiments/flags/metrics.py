"""Reads `--metrics`."""

from __future__ import annotations

import re
from typing import Literal, NoReturn

from experiments.entry.errors import InputError

Kind = Literal["top", "confusion", "auc"]
Named = tuple[str, Kind, int]
"""A metric's name, what it is, and its K or class."""

_NAME = re.compile(r"(?P<kind>top|auc)_(?P<number>0|[1-9][0-9]{0,8})")


def parsed(text: str) -> list[Named]:
    """The metrics of "top_3,confusion,auc_7", in their order.

    Raises:
      InputError: on another name, a repeated one, or the first of no classes.
    """
    names = [name.strip() for name in text.split(",")]
    if len(set(names)) < len(names):
        _refuse("each metric once", text, "remove the second")
    return [_of(name) for name in names]


def _of(name: str) -> Named:
    if name == "confusion":
        return name, "confusion", 0
    if name in ("loss", "accuracy"):
        _refuse("metrics besides loss and accuracy", name, "remove it: it is always there")
    match = _NAME.fullmatch(name)
    if match is None or name == "top_0":
        _refuse("top_K, confusion or auc_C", name or "nothing", "give for example --metrics=top_3")
    return name, "top" if match["kind"] == "top" else "auc", int(match["number"])


def _refuse(expected: str, found: str, mend: str) -> NoReturn:
    raise InputError("--metrics", expected=expected, found=found, mend=mend)
