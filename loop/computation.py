"""What a training run computes: its step on its state, compiled or examined."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from loop.compiled import auto
from loop.compiled.compiled_loop import CompiledLoop, Mode, StepFunction
from loop.compiled.purity import Declared
from loop.distribute import Replicas
from loop.feeds import Feed, HasState
from loop.global_step import GlobalStep
from loop.keras import adapter
from loop.keras.step_hooks import KerasParts
from loop.nonfinite.examination import Examiner
from loop.variables import State, named, require_scope, variable_of, with_brought


@dataclasses.dataclass(frozen=True)
class Computation:
    """A step, the state it changes, and what runs it.

    Attributes:
      state: name -> variable, all that a resume needs.
      choice: gives the compiled loop in its mode.
      examiner: computes a step eagerly to find what is not finite.
    """

    state: State
    choice: auto.Choice
    examiner: Examiner

    @classmethod
    def of(
        cls,
        step: StepFunction,
        feed: Feed,
        state: Any,
        global_step: GlobalStep,
        replicas: Replicas,
        *,
        compile: Mode | Literal["auto"],
        steps_per_call: int,
        scratch: Sequence[Any],
        stateful_random: bool,
    ) -> Computation:
        """Of a `Trainer`'s arguments; they are described there.

        Raises:
          ValueError: on a state that names a variable twice, or variables made outside the scope of
            several replicas.
          TypeError: on an owner of state of an unknown kind.
        """
        # A step that has state of its own (a loss scale) must not be forgotten by its user.
        own = {"step": step} if getattr(step, "state", None) else {}
        owners = state if isinstance(state, Mapping) else {} if state is None else {"state": state}
        known = named({**own, **owners, "global_step": global_step.variable})
        complete = with_brought(known, step)
        require_scope(complete, replicas.count)
        adapter.make_global_seed_generator()
        keras = KerasParts.of(owners)
        keras.require_one_state(replicas.count)
        declared = Declared(
            complete,
            scratch=[variable_of(variable) for variable in scratch],
            set_each_step=keras.set_each_step,
            stateful_random=stateful_random,
        )
        choice = auto.Choice(
            lambda mode: CompiledLoop(
                step,
                feed,
                mode=mode,
                steps_per_call=steps_per_call,
                global_step=global_step,
                replicas=replicas,
                hooks=keras.hooks,
                assigned=keras.assigned,
                declared=declared,
            ),
            compile,
            state=complete,
            replicas=replicas,
            measurable=not isinstance(feed, HasState),
        )
        examiner = Examiner(step, feed, complete, replicas, hooks=keras.hooks)
        return cls(complete, choice, examiner)
