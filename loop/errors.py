"""Errors of a run."""

from __future__ import annotations


class NonFiniteError(RuntimeError):
    """A step's loss or gradients were not finite, and the run was told to stop.

    Weights, slots, statistics and counter have the values from before this step.

    Attributes:
      step: the number of finished steps before this one.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class WorkerFailedError(RuntimeError):
    """Another worker of the run could not do its part before the first step, and has said why."""


class WorkerLostError(RuntimeError):
    """Another worker of the run ended, stopped or cannot be reached: the run cannot go on.

    The same launch of all workers goes on from the last checkpoint. TensorFlow's own shutdown may
    wait for the lost worker.
    """
