"""Batches as nests: what a batch is made of, and its leaves by name.

As in `tf.data`, dicts and tuples (named ones too) are made of parts, and so is a list of arrays or
of other parts; a list of numbers is an array.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

Structure = Any
"""A nest that holds at each leaf's place the leaf's name."""

_ALONE = "batch"
"""The name of a batch that is one leaf."""


def named_leaves(nest: Any) -> tuple[Structure, dict[str, Any]]:
    """The nest's structure, and its leaves by name: keys and indices joined by a slash.

    Raises:
      ValueError: if two leaves have one name.
    """
    leaves: dict[str, Any] = {}
    return _walked(nest, "", leaves), leaves


def _walked(part: Any, path: str, leaves: dict[str, Any]) -> Structure:
    # A function within `named_leaves` would be a cycle that keeps the leaves' memory for a while.
    below = path and f"{path}/"
    if isinstance(part, Mapping):
        return {key: _walked(value, f"{below}{key}", leaves) for key, value in part.items()}
    if isinstance(part, tuple) and hasattr(part, "_fields"):
        fields = zip(part._fields, part, strict=True)
        return type(part)(*(_walked(value, f"{below}{key}", leaves) for key, value in fields))
    if isinstance(part, tuple) or _is_list_of_parts(part):
        return tuple(_walked(value, f"{below}{i}", leaves) for i, value in enumerate(part))
    name = path or _ALONE
    if name in leaves:
        raise ValueError(f"expected one leaf of each name, found two of {name!r}; rename one")
    leaves[name] = part
    return name


def rebuilt(structure: Structure, leaves: Mapping[str, T]) -> Any:
    """The nest of a structure with these leaves in it."""
    if isinstance(structure, Mapping):
        return {key: rebuilt(part, leaves) for key, part in structure.items()}
    if isinstance(structure, tuple):
        parts = [rebuilt(part, leaves) for part in structure]
        return type(structure)(*parts) if hasattr(structure, "_fields") else tuple(parts)
    return leaves[structure]


def _is_list_of_parts(part: Any) -> bool:
    return isinstance(part, list) and any(
        isinstance(value, (Mapping, tuple)) or hasattr(value, "shape") for value in part[:1]
    )
