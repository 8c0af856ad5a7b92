"""What the outer loop does at boundaries."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loop.trainer import Trainer

Action = Callable[["Trainer"], None]


@dataclasses.dataclass(frozen=True)
class Every:
    """An action at every multiple of `steps` finished steps.

    A call of many steps is cut so that it ends there: the action sees the state of exactly that
    step, whatever the steps a call.

    Attributes:
      steps: the interval, at least 1.
      action: called with the trainer.
      at_end: also call it when training ends between two boundaries.

    Raises:
      ValueError: if steps is below 1.
    """

    steps: int
    action: Action
    at_end: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"Every: steps must be at least 1, got {self.steps}")

    def next_boundary(self, step: int) -> int:
        """The first boundary after `step` finished steps."""
        return (step // self.steps + 1) * self.steps

    def is_due(self, step: int) -> bool:
        """Whether `step` finished steps are a boundary."""
        return step % self.steps == 0
