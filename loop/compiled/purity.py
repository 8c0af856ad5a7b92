"""Refuses a step that is not a pure function of (state, seed, global step).

What a step assigns must be in the run's state, or a resume loses it; what it draws must follow from
the seed and the global step, or a resume draws something else. The trace tells both
(`loop.compiled.trace`), so a step that breaks the promise is refused before it runs.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from loop.compiled import trace
from loop.keras import adapter
from loop.variables import State, components, listed, name_of, variable_of

_log = logging.getLogger(__name__)


class ImpureStepError(ValueError):
    """A step that assigns undeclared variables, or draws random numbers that no seed decides."""


@dataclasses.dataclass(frozen=True)
class Declared:
    """What a step may write and draw.

    Attributes:
      state: name -> variable, what checkpoints hold.
      scratch: variables that the step may assign and that no resume needs.
      set_each_step: variables that the loop itself sets at the start of each step from the seed and
        the global step, such as the states of Keras's seed generators.
      stateful_random: whether random operations that keep hidden state are allowed. The resume of
        such a run is not exact, which a log line says.
    """

    state: State
    scratch: Sequence[tf.Variable] = ()
    set_each_step: Sequence[tf.Variable] = ()
    stateful_random: bool = False

    def check(self, function: Any) -> None:
        """Checks what a traced step writes and draws.

        Args:
          function: the `tf.types.experimental.ConcreteFunction` of the step or of a loop of steps.

        Raises:
          ImpureStepError: in one line, with the names.
        """
        found = trace.read(function)
        self._check_written(found)
        if found.random:
            self._refuse_or_say_random(found.random)
        if found.python:
            _log.warning(
                "the step calls Python (%s): what that does is repeated by no resume, and XLA "
                "cannot compile it",
                ", ".join(found.python),
            )

    def _check_written(self, found: trace.Trace) -> None:
        allowed = _handles([*self.state.values(), *self.scratch, *self.set_each_step])
        undeclared = [handle for handle in found.written if id(handle) not in allowed]
        if undeclared:
            names = _names(undeclared)
            seeds = any(name.endswith("seed_generator_state") for name in names)
            raise ImpureStepError(
                f"Trainer: the step assigns {listed(names)}, expected only "
                "variables of its state, which checkpoints hold; add what owns them to `state=`, "
                "or, where no resume needs them, the variables to `scratch=`"
                + ("; keras.random takes a SeedGenerator of a layer in `state=`" if seeds else "")
            )
        if found.unknown:
            _log.warning(
                "the step uses a resource that is no variable by %s: what it changes there is in "
                "no checkpoint",
                ", ".join(found.unknown),
            )

    def _refuse_or_say_random(self, operations: Sequence[str]) -> None:
        drawn = ", ".join(operations)
        if not self.stateful_random:
            raise ImpureStepError(
                f"Trainer: the step draws by {drawn}, whose state no checkpoint holds; expected "
                "random numbers of the seed and the global step: use tf.random.stateless_*, "
                "kernels.random or loop.layers.Dropout, give keras.random a SeedGenerator of a "
                "layer in `state=`, or pass stateful_random=True and lose the exact resume"
            )
        _log.warning(
            "the step draws by %s, whose state no checkpoint holds: a resume of this run is not "
            "exact",
            drawn,
        )


def _handles(variables: Iterable[tf.Variable]) -> set[int]:
    return {id(part.handle) for variable in variables for part in components(variable)}


def _names(handles: Sequence[tf.Tensor]) -> list[str]:
    """What a user calls the variables behind handles: a Keras variable's path, or TF's name."""
    wanted = {id(handle) for handle in handles}
    names: dict[int, str] = {}
    # Nothing leads from a handle to its variable; this is for the message of a run that ends.
    for candidate in gc.get_objects():
        if isinstance(candidate, tf.Variable) or adapter.is_variable(candidate):
            for part in components(variable_of(candidate)):
                if id(part.handle) in wanted and (
                    id(part.handle) not in names or adapter.is_variable(candidate)
                ):
                    names[id(part.handle)] = name_of(candidate)
    return list(dict.fromkeys(names.get(id(h), "a resource without a name") for h in handles))
