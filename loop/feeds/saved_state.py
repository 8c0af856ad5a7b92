"""Feeds whose place cannot be worked out from the step: their state goes into the checkpoint."""

from __future__ import annotations

import base64
from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class HasState(Protocol):
    """A feed with a state of its own."""

    def state_at(self, step: int) -> Any:
        """The state, as JSON values, from which the batches of `step` and on are read."""

    def restore(self, step: int, state: Any) -> None:
        """Takes up at `step` from what `state_at(step)` gave."""


def encoded(value: Any) -> Any:
    """An iterator's state as JSON values: dicts, lists, tuples, bytes, numbers, strings, None.

    Raises:
      TypeError: on anything else; nothing is pickled.
    """
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, tuple):
        return {"tuple": [encoded(item) for item in value]}
    if isinstance(value, list):
        return [encoded(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        # A dict of the state's own is wrapped, so that none of its keys is taken for a tag.
        return {"dict": {key: encoded(item) for key, item in value.items()}}
    if isinstance(value, np.generic):
        return encoded(value.item())
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(
        f"feed's state: expected dicts, lists, tuples, bytes, numbers and strings, found "
        f"{type(value).__name__}; make get_state() return those"
    )


def decoded(value: Any) -> Any:
    """What `encoded` was given."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag == "bytes":
        return base64.b64decode(content)
    if tag == "tuple":
        return tuple(decoded(item) for item in content)
    return {key: decoded(item) for key, item in content.items()}
