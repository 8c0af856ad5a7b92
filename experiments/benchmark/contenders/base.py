"""What every contender is: a step built and ready to be timed."""

from __future__ import annotations

from typing import Any

import numpy as np


class Base:
    """A contender of which `call` makes the steps.

    Attributes:
      call_steps: the most steps of one `call`.
      fixed_calls: whether a call of fewer steps would be compiled anew.
      steps_per_call: the most steps of its calls, where it chooses them itself; otherwise 0.
      compile: the compiler it chose; "" where it has no choice.
      note: its own remark.
    """

    call_steps = 1
    fixed_calls = False
    steps_per_call = 0
    compile = ""
    note = ""

    def call(self, steps: int) -> Any:
        """Starts the next steps, at most `call_steps`; their losses, or the last one's."""
        raise NotImplementedError

    def wait(self, losses: Any) -> None:
        """Returns once the call that gave `losses` is done."""
        np.asarray(losses)

    def first_losses(self, count: int) -> list[float]:
        """Trains on batches 0 .. count-1 from the initial weights; each step's loss."""
        return [float(np.ravel(np.asarray(self.call(1)))[-1]) for _ in range(count)]

    def run(self, steps: int) -> float | None:
        """Trains `steps` steps and waits for the last result.

        Returns:
          The seconds it took, or None to be timed from outside.
        """
        losses = None
        for start in range(0, steps, self.call_steps):
            losses = self.call(min(self.call_steps, steps - start))
        self.wait(losses)
        return None

    def measured(self) -> dict[str, float]:
        """What else it has measured so far, by name."""
        return {}
