"""How long a training run is on a feed: steps, epochs, or until the input ends."""

from __future__ import annotations

import sys
from typing import Any, Protocol, runtime_checkable

from loop.feeds.feed import MayEnd

END_OF_INPUT = sys.maxsize
"""The last step of a run that only the end of its input ends."""


@runtime_checkable
class HasEpochs(Protocol):
    """A feed that may know how long it is."""

    def steps_in(self, epochs: int) -> int | None:
        """The steps of so many epochs, the last batch included; None if that is not known."""


@runtime_checkable
class Repeatable(Protocol):
    """A feed whose input ends after an epoch, and that can be read again from its start."""

    def repeat(self, epochs: int) -> None:
        """Lets the input end after so many epochs, counted from step 0."""


def last_step(feed: Any, until: int | None, epochs: int | None) -> int:
    """The step at which training is to end; a `Repeatable` feed is set to the epochs.

    Args:
      feed: any feed; epochs need one with `steps_in`.
      until: a global step, or None.
      epochs: times through the data counted from step 0, or None.

    Returns:
      `until`, the epochs' last step, or `END_OF_INPUT` where neither is given.

    Raises:
      ValueError: if both are given, the epochs are below 1 or of an unknown length, or neither is
        given and the feed has no end.
    """
    name = type(feed).__name__
    if epochs is None:
        if until is None and not isinstance(feed, MayEnd):
            raise ValueError(
                f"Trainer: expected `until` or `epochs`, found neither, and {name} gives batches "
                "without end; pass train(until=STEPS) or train(epochs=EPOCHS)"
            )
        return END_OF_INPUT if until is None else until
    if until is not None:
        raise ValueError(
            f"Trainer: expected `until` or `epochs`, found until={until} and epochs={epochs}; "
            "leave one out"
        )
    if epochs < 1:
        raise ValueError(f"Trainer: epochs must be at least 1, got {epochs}")
    steps = feed.steps_in(epochs) if isinstance(feed, HasEpochs) else None
    if steps is None:
        raise ValueError(
            f"Trainer: epochs={epochs} needs to know how many steps an epoch has, and {name} does "
            "not (its length is unknown or without end); pass until=STEPS"
        )
    if isinstance(feed, Repeatable):
        feed.repeat(epochs)
    return steps
