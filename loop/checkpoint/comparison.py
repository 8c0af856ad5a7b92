"""What differs between the metadata of a checkpoint and the run that resumes from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key in value:
            yield from _leaves(value[key], f"{name}.{key}" if name else str(key))
    else:
        yield name, list(value) if isinstance(value, tuple) else value


def changed(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """The dotted names ("configuration.learning_rate") whose values differ, sorted.

    Nested maps are compared leaf by leaf, lists as wholes; 1, 1.0 and True are three values.
    """
    old, new = dict(_leaves(saved, "")), dict(_leaves(current, ""))

    def same(name: str) -> bool:
        return name in old and name in new and repr(old[name]) == repr(new[name])

    return sorted(name for name in old.keys() | new.keys() if name and not same(name))


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """One line for each value that differs: `name: saved X, now Y`, by name.

    Args:
      saved: a checkpoint's metadata, or a part of it.
      current: the same part of the run that resumes.
    """
    old, new = dict(_leaves(saved, "")), dict(_leaves(current, ""))
    return [
        f"{name}: saved {repr(old[name]) if name in old else 'nothing'}, "
        f"now {repr(new[name]) if name in new else 'nothing'}"
        for name in changed(saved, current)
    ]
