"""Feeds whose place cannot be worked out from the step: their state goes into the checkpoint."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any, Protocol, runtime_checkable

import numpy as np

from loop.distribute import Replicas

_log = logging.getLogger(__name__)


@runtime_checkable
class HasState(Protocol):
    """A feed with a state of its own."""

    def state_at(self, step: int) -> Any | None:
        """The state, as JSON values, from which the batches of `step` and on are read.

        None where it is not known, and a resume reads forward from the start. Called between calls,
        when the next call's batches may already be read.
        """

    def restore(self, step: int, state: Any) -> None:
        """Goes on at `step` from what `state_at(step)` gave."""


def state_of(feed: Any, step: int) -> Any | None:
    """What a checkpoint of `step` holds of the feed; None for a feed without a state."""
    return feed.state_at(step) if isinstance(feed, HasState) else None


def take_up(feed: Any, step: int, saved: Any | None, replicas: Replicas) -> None:
    """Sets a feed with a state to the step of the checkpoint that was restored.

    Args:
      feed: any feed; nothing happens to one without a state.
      step: the restored step.
      saved: what the chief's checkpoint holds of the feed; the other workers get it from the chief.
      replicas: the run's; all workers must call this.
    """
    if not isinstance(feed, HasState):
        if saved is not None:
            _log.warning("the saved run's feed had a state of its own, which this feed has not")
        return
    text = json.dumps(saved).encode()
    length = int(replicas.gather([len(text)])[0, 0])
    of_chief = replicas.gather(list(text[:length].ljust(length)))[0]
    state = json.loads(bytes(of_chief.tolist()))
    if state is not None:
        feed.restore(step, state)
    elif step:
        _log.warning("the checkpoint holds no state of the feed, which reads forward from step 0")


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
