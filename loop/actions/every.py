"""What the outer loop does at boundaries."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from loop.actions.running import Running
from loop.user_code import found

Action = Callable[[Any], None]
"""Called with the trainer, of which `Running` says what the loop's own actions use."""


class Boundaries(Protocol):
    """Steps at which a trainer calls an action: `Every`, or anything with the same four names."""

    @property
    def at_end(self) -> bool:
        """Whether also when training ends elsewhere."""

    @property
    def at_start(self) -> bool:
        """Whether also when training starts at one of the steps."""

    @property
    def action(self) -> Action:
        """What to call."""

    def next_boundary(self, step: int) -> int:
        """The first of the steps after `step`."""

    def is_due(self, step: int) -> bool:
        """Whether `step` is one of them."""


@dataclasses.dataclass(frozen=True)
class Every:
    """An action at every multiple of `steps` finished steps.

    A call of many steps is cut so that it ends there: the action sees the state of exactly that
    step, whatever the steps a call.

    Attributes:
      steps: the interval, at least 1.
      action: called with the trainer.
      at_end: also call it when training ends between two boundaries.
      at_start: also call it when training starts at a boundary, as a resumed run may.

    Raises:
      ValueError: if steps is below 1.
      TypeError: if action is no function.
    """

    steps: int
    action: Action
    at_end: bool = False
    at_start: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"Every: steps must be at least 1, got {self.steps}")
        if not callable(self.action):
            raise TypeError(
                "Every: action expected to be a function of the trainer, found "
                f"{found(self.action)}; give one, as loop.Every(100, lambda trainer: ...)"
            )

    def next_boundary(self, step: int) -> int:
        """The first boundary after `step` finished steps."""
        return (step // self.steps + 1) * self.steps

    def is_due(self, step: int) -> bool:
        """Whether `step` finished steps are a boundary."""
        return step % self.steps == 0


def in_order(
    evaluate_every: int, actions: Sequence[Boundaries], checkpoint_every: int
) -> list[Boundaries]:
    """A trainer's actions: evaluate, then the user's, then save, so that a save has seen the rest.

    An interval of 0 leaves its action out.

    Raises:
      TypeError: on an action without boundaries.
    """
    every = list(actions)
    for action in every:
        if isinstance(action, type) or not hasattr(action, "next_boundary"):
            raise TypeError(
                f"Trainer: each of actions expected to be a loop.Every, found {found(action)}; "
                "give loop.Every(100, function), whose function takes the trainer, such as a "
                "loop.EarlyStopping in place of Keras's callback"
            )
    if evaluate_every:
        every.insert(0, Every(evaluate_every, _evaluate))
    if checkpoint_every:
        every.append(Every(checkpoint_every, _save))
    return every


def _evaluate(trainer: Running) -> None:
    trainer.evaluate()


def _save(trainer: Running) -> None:
    trainer.save()
