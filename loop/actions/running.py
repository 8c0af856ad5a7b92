"""What an action sees of the trainer that calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from loop.actions.meter import Meter
from loop.distribute import Replicas
from loop.global_step import GlobalStep
from loop.rows import Rows


class Running(Protocol):
    """A training run: a `loop.Trainer`, which an action is called with.

    The actions name what they use here and not the trainer's class, since the trainer imports them.
    """

    @property
    def global_step(self) -> GlobalStep:
        """The counter."""

    @property
    def replicas(self) -> Replicas:
        """Where the steps run."""

    @property
    def meter(self) -> Meter:
        """Where the time went."""

    @property
    def rows(self) -> Rows | None:
        """The last call's rows."""

    @property
    def evaluations(self) -> Sequence[tuple[int, dict[str, Any]]]:
        """The (step, results) of every evaluation of the run."""

    def evaluate(self) -> dict[str, float]:
        """Evaluates the current state."""

    def save(self) -> None:
        """Saves a checkpoint of the current step."""

    def stop(self, reason: str) -> None:
        """Ends training after the current call."""
