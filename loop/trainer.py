"""The outer loop: cuts calls at boundaries and does there what needs the host."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, Literal

import tensorflow as tf

from loop import distribute
from loop.actions.best import BestCheckpoints
from loop.actions.every import Boundaries, Every, in_order
from loop.actions.meter import Meter, Phase
from loop.actions.monitor import read_evaluations
from loop.averaging.shadow_weights import ShadowWeights
from loop.checkpoint import Restored
from loop.compiled import autotune
from loop.compiled.compiled_loop import CompiledLoop, Mode, Outcome, StepFunction
from loop.compiled.purity import Declared
from loop.errors import NonFiniteError, WorkerLostError
from loop.evaluation.evaluation import CompiledEvaluation, Evaluation
from loop.feeds import Feed, HasState, as_feed, position
from loop.feeds.epochs import END_OF_INPUT, last_step
from loop.global_step import GlobalStep
from loop.keras import adapter
from loop.keras.step_hooks import KerasParts
from loop.nonfinite import examination
from loop.rows import Rows
from loop.run.directory import RunDirectory
from loop.run.prefetch import Call, prefetched_calls
from loop.run.signals import StopSignals
from loop.variables import named, require_scope, variable_of, with_brought
from loop.writers.lines import Writer

_log = logging.getLogger(__name__)

CALL_SECONDS = 1.0
"""A call ends within about this time, so that a signal is answered and a stall is seen."""


class Trainer:
    """Runs a step function over a feed until a global step.

    Makes nothing on disk until it is opened, which resumes from `directory` if a run is there: by
    `open`, or by the first method that needs the run's state (`train`, `evaluate`, `save`,
    `examine`, `evaluated_weights`, `mode`, `compiled_loop`). Several workers open it together.
    After `close` nothing is written to the directory any more: what would is refused. A trainer
    without a directory has nothing to give up and can be used on.

    Args:
      step: batch -> dict of scalars; a `GradientStep` or any function.
      feed: the source of batches, of `loop.feeds` or a `tf.data.Dataset` of batches as it is (see
        `loop.feeds.Dataset`); its seed is the run's.
      state: the owners of all state by name: models, optimizers, metrics, variables, and mappings
        or lists of these (see `loop.variables.named`). The counter, the step's own (`step.state`)
        and what a `GradientStep` trains, with its optimizer, need not be in it. A step that assigns
        anything else is refused before it runs.
      directory: for checkpoints and `metrics.jsonl`: a path, a `RunDirectory`, or None for none.
      compile: "xla", "graph", "eager" or "auto" (see `loop.compiled.autotune`).
      steps_per_call: the most steps a call runs; None for the feed's own number (256 for arrays).
      replicas: where the steps run; model and optimizer must be made within its `scope()`.
      evaluation: what `evaluate` runs.
      evaluation_weights: what it runs on instead of the trained weights, a `WeightEMA`.
      evaluate_every: steps; 0 for only when asked.
      checkpoint_every: steps; 0 for the end alone.
      keep_best: which checkpoints to keep besides the newest.
      actions: what else to do at which boundaries.
      writers: given every call's rows.
      on_nonfinite: "stop" at the first non-finite step, or "skip" up to `max_nonfinite` in a row.
      max_nonfinite: see on_nonfinite.
      stall_seconds: without a batch, after which the log says that the run waits for its input.
      scratch: variables that the step may assign and that no resume needs.
      stateful_random: whether the step may draw random numbers that do not follow from seed and
        step (`tf.random.normal`); a log line then says that its resume is not exact.
      stop_signals: entered by the caller around `train`; the first signal ends training after the
        current call, with a checkpoint.

    Attributes:
      global_step: the counter; 0 until opened.
      state: name -> variable, what checkpoints hold; the initial values until opened.
      meter: where the time went.
      rows: the last call's rows; None before it.
      evaluations: (step, results) of every evaluation of the run; a resumed one's earlier ones are
        known to the chief, from opening on.
      stop_reason: why training ended early, such as the end of the input; None if it did not.
      stop_signal: the signal that ended it, on whichever worker it came; None without one.
      steps_per_call: see above.

    Raises:
      ValueError: on an interval below 0, a state that names a variable twice, or variables made
        outside the scope of several replicas.
      TypeError: on an owner of state of an unknown kind, or on what is no feed.
    """

    def __init__(
        self,
        *,
        step: StepFunction,
        feed: Feed | tf.data.Dataset,
        state: Any = None,
        directory: str | os.PathLike[str] | RunDirectory | None = None,
        compile: Mode | Literal["auto"] = "auto",
        steps_per_call: int | None = None,
        replicas: distribute.Replicas | None = None,
        evaluation: Evaluation | None = None,
        evaluation_weights: ShadowWeights | None = None,
        evaluate_every: int = 0,
        checkpoint_every: int = 0,
        keep_best: BestCheckpoints | None = None,
        actions: Sequence[Boundaries] = (),
        writers: Sequence[Writer] = (),
        on_nonfinite: Literal["stop", "skip"] = "stop",
        max_nonfinite: int = 10,
        stall_seconds: float = 60.0,
        stop_signals: StopSignals | None = None,
        scratch: Sequence[Any] = (),
        stateful_random: bool = False,
    ) -> None:
        if on_nonfinite not in ("stop", "skip"):
            raise ValueError(f"Trainer: on_nonfinite must be stop or skip, got {on_nonfinite!r}")
        if not stall_seconds > 0:
            raise ValueError(f"Trainer: stall_seconds must be above 0, got {stall_seconds}")
        if evaluate_every and evaluation is None:
            raise ValueError(f"Trainer: evaluate_every={evaluate_every} needs an evaluation")
        self.feed: Feed = as_feed(feed, "Trainer")
        self.meter = Meter()
        self.replicas = replicas or distribute.single()
        with self.replicas.scope():
            self.global_step = GlobalStep()
        if steps_per_call is None:
            steps_per_call = int(getattr(feed, "steps_per_call", 64))
        self.steps_per_call = steps_per_call
        self._set_computation(step, state, compile, scratch, stateful_random)
        self._max_nonfinite = max_nonfinite if on_nonfinite == "skip" else 0
        self._stall_seconds = stall_seconds
        self._evaluation = evaluation
        self._evaluation_weights = evaluation_weights
        self._compiled_evaluation: CompiledEvaluation | None = None
        self._writers = list(writers)
        self._stop_signals = stop_signals
        if isinstance(directory, (str, os.PathLike)):
            directory = RunDirectory(directory)
        self._directory = directory
        self._keep_best = keep_best
        if keep_best is not None:
            actions = [*actions, Every(keep_best.monitor.every, keep_best)]
        self._actions = in_order(evaluate_every, actions, checkpoint_every)
        self._set_start()

    def _set_computation(
        self,
        step: StepFunction,
        state: Any,
        compile: Mode | Literal["auto"],
        scratch: Sequence[Any],
        stateful_random: bool,
    ) -> None:
        """The state, and what runs or examines the step on it."""
        # A step that has state of its own (a loss scale) must not be forgotten by its user.
        own = {"step": step} if getattr(step, "state", None) else {}
        owners = state if isinstance(state, Mapping) else {} if state is None else {"state": state}
        known = named({**own, **owners, "global_step": self.global_step.variable})
        self.state = with_brought(known, step)
        require_scope(self.state, self.replicas.count)
        adapter.make_global_seed_generator()
        keras = KerasParts.of(owners)
        declared = Declared(
            self.state,
            scratch=[variable_of(variable) for variable in scratch],
            set_each_step=keras.set_each_step,
            stateful_random=stateful_random,
        )
        self._choice = autotune.Choice(
            lambda mode: CompiledLoop(
                step,
                self.feed,
                mode=mode,
                steps_per_call=self.steps_per_call,
                global_step=self.global_step,
                replicas=self.replicas,
                hooks=keras.hooks,
                assigned=keras.assigned,
                declared=declared,
            ),
            compile,
            state=self.state,
            replicas=self.replicas,
            measurable=not isinstance(self.feed, HasState),
        )
        self._examiner = examination.Examiner(
            step, self.feed, self.state, self.replicas, hooks=keras.hooks
        )

    def _set_start(self) -> None:
        """Where a run is before it is opened."""
        self.rows: Rows | None = None
        self.evaluations: list[tuple[int, dict[str, float]]] = []
        self.stop_reason: str | None = None
        self.stop_signal: int | None = None
        self._ready = False
        self._closed = False
        self._longest_call = 1
        self._chosen: CompiledLoop | None = None
        self._compiled = False
        self._streak = 0
        self._saved_mode: Mode | None = None
        self._saved_step: int | None = None

    @property
    def traces(self) -> int:
        """How often the training loop was traced."""
        return self._chosen.traces if self._chosen is not None else 0

    @property
    def mode(self) -> Mode:
        """The compile mode of training; with "auto", until it is chosen, that of `evaluate`."""
        if self._chosen is not None:
            return self._chosen.mode
        self._opened()
        return self._choice.before_training(self._saved_mode)

    def compiled_loop(self, *, steps: int | None = None) -> CompiledLoop:
        """The loop in its compile mode, which with "auto" the first call here chooses.

        `train` calls it; a caller that trains in many short pieces calls it first.

        Args:
          steps: how many are to come: measuring and compiling must pay within them. None: so many
            that both do.
        """
        if self._chosen is None:
            self._opened()
            with self.meter.phase("compile"):
                self._chosen = self._choice.loop(steps=steps, saved=self._saved_mode)
            self._compiled = self._chosen.mode == "eager"
            if self._directory is not None and self.replicas.is_chief:
                self._directory.note_exactness("compile", self._chosen.mode)
        return self._chosen

    def open(self) -> Restored | None:
        """Locks the directory and restores its newest checkpoint.

        Returns:
          What was restored; None without a directory or a checkpoint.

        Raises:
          RunLockError, CheckpointError, StateMismatchError, ConfigurationChangedError: one line.
          RuntimeError: if it is open, or was closed.
          WorkerFailedError: the chief has raised one of these.
        """
        self._refuse_if_closed()
        if self._ready:
            raise RuntimeError("Trainer: already open")
        restored = None
        with self.replicas.failing_together():
            if self._directory is not None and self.replicas.is_chief:
                restored = self._restored(self._directory)
        if self._directory is not None:
            self.replicas.broadcast_from_chief(self.state)
            feed_state = restored.metadata.get("feed") if restored is not None else None
            position.take_up(self.feed, int(self.global_step), feed_state, self.replicas)
            # The chief alone has read the directory.
            modes: tuple[Mode | None, ...] = (None, "xla", "graph", "eager")
            place = modes.index(self._directory.saved_exactness.get("compile"))
            self._saved_mode = modes[int(self.replicas.gather([place])[0, 0])]
        self._ready = True
        return restored

    def _opened(self) -> None:
        """Opens what was not opened."""
        if not self._ready:
            self.open()

    def _refuse_if_closed(self) -> None:
        if self._closed and self._directory is not None:
            raise RuntimeError(
                f"Trainer: closed, and {self._directory.path} given up; do it before `close` "
                "(within the `with` block), or make another trainer to go on"
            )

    def _restored(self, directory: RunDirectory) -> Restored | None:
        exactness = {"replicas": self.replicas.count}
        with self.meter.phase("checkpoint"):
            restored = directory.open(self.state, exactness, seed=self.feed.seed)
        assert directory.step_lines is not None
        assert directory.evaluation_lines is not None
        self._writers.append(directory.step_lines)
        self.evaluations = read_evaluations(directory.evaluation_lines.path)
        if restored is not None:
            _log.info("resumed from %s at step %d", restored.path, restored.step)
            self._saved_step = restored.step
        return restored

    def train(self, *, until: int | None = None, epochs: int | None = None) -> None:
        """Trains until `until` steps are finished in all, then saves.

        An input that ends before ends training in the same way; `stop_reason` then says so.

        Args:
          until: a global step; at or below the current one nothing is trained. None for the end
            of the input.
          epochs: instead of `until`, times through the data counted from step 0; see
            `feed.steps_per_epoch`.

        Raises:
          ValueError: with both; with `epochs` where the feed does not know its length; without
            either, where the feed has no end.
          NonFiniteError: a step was not finite and the run was not to skip it.
          WorkerLostError: another worker is gone.
          What `open` raises, and CheckpointError where a save failed.
        """
        self._refuse_if_closed()
        last = last_step(self.feed, until, epochs)
        self._opened()
        self.stop_reason = None
        step = int(self.global_step)
        if step < last:
            # First: an evaluation at the start is then compiled in the same mode.
            self.compiled_loop(steps=_remaining(step, last))
        for every in self._actions:
            if every.at_start and every.is_due(step):
                every.action(self)
        if step < last and self.stop_reason is None:
            step = self._calls(step, last)
        for every in self._actions:
            if every.at_end and not every.is_due(step):
                every.action(self)
        self.save()
        if self.stop_signal is not None:
            self._saved_together()

    def _calls(self, step: int, until: int) -> int:
        """Call after call, and what is due between them; the step where it ended."""
        loop = self.compiled_loop(steps=_remaining(step, until))
        self._least(0)
        calls = prefetched_calls(
            loop.prepare,
            lambda step: self._count(step, until),
            step=step,
            until=until,
            meter=self.meter,
            stall_seconds=self._stall_seconds,
            least=self._least,
        )
        with contextlib.closing(calls), contextlib.closing(self._saving(calls)) as calls:
            for call in calls:
                self._run(loop, call)
                step = call.step + call.count
                self._boundary(step)
                if self.stop_reason is not None:
                    return step
        if step < until:
            self.stop(f"the input ended at step {step}")
            wanted = "" if until == END_OF_INPUT else f", before step {until}"
            level = logging.WARNING if wanted else logging.INFO
            _log.log(level, "%s%s: training ends here", self.stop_reason, wanted)
        return step

    def _saving(self, calls: Iterator[Call]) -> Generator[Call]:
        """The calls; an error of the input is raised after a save, as of a step not finite."""
        try:
            yield from calls
        except WorkerLostError:
            raise
        except Exception:
            self.save()
            raise

    def _run(self, loop: CompiledLoop, call: Call) -> None:
        """One compiled call, and its rows to the writers."""
        phase: Phase = "train"
        if not self._compiled:
            if loop.compiles_by_a_step:
                phase = "compile"
            else:
                with self.meter.phase("compile"):
                    loop.run(call.prepared, 0)
            self._compiled = True
        with self.meter.phase(phase):
            outcome = loop.run(
                call.prepared, call.count, max_nonfinite=self._max_nonfinite, streak=self._streak
            )
        self.rows, self._streak = outcome.rows, outcome.streak
        if phase == "train":
            self.meter.count(len(outcome.rows), len(outcome.rows) * self.feed.batch_size)
        for writer in self._writers:
            writer(outcome.rows)
        if outcome.stopped:
            self._raise_nonfinite(outcome)

    def _count(self, step: int, until: int) -> int:
        """Steps of the call that starts at `step`: up to the next boundary, within the limits."""
        boundary = min([until, *(every.next_boundary(step) for every in self._actions)])
        return min(self._longest_call, max(boundary - step, 0))

    def _least(self, steps: int) -> int:
        """The steps that every worker has input for; it also agrees on how long a call may be."""
        # Before the first step is timed, a call of many could take minutes.
        seconds = self.meter.seconds_per_step
        limit = max(1, int(CALL_SECONDS / seconds)) if seconds else 1
        # Workers time their steps apart, and must make the same calls.
        table = self.replicas.gather([steps, min(self.steps_per_call, limit)])
        self._longest_call = int(table[:, 1].min())
        least = int(table[:, 0].min())
        if (table[:, 0] != least).any():
            _log.warning(
                "worker %d's input ended before another worker's: training ends with it; give "
                "every worker the same global batches",
                int(table[:, 0].argmin()),
            )
        return least

    def _boundary(self, step: int) -> None:
        if self._directory is not None:
            self._directory.poll()
        for every in self._actions:
            if every.is_due(step):
                every.action(self)
        received = self._stop_signals.received if self._stop_signals is not None else None
        highest = int(self.replicas.gather([received or 0])[:, 0].max())
        if highest:
            self.stop_signal = highest
            self.stop(f"signal {highest}")

    def _raise_nonfinite(self, outcome: Outcome) -> None:
        """Saves the state before the step and a replay file, and says what is not finite."""
        failure = examination.Failure.of(int(self.global_step), self.feed, outcome)
        line = failure.message(self._examiner)
        if self._directory is not None and self.replicas.is_chief:
            with self.meter.phase("checkpoint"):
                line += f"; {self._directory.save_replay(failure)}"
        self._saved_together()
        raise NonFiniteError(line, failure.step)

    def _saved_together(self) -> None:
        """Waits on every worker until the chief has saved: the end of one would cut it short."""
        if self.replicas.workers > 1:
            if self._directory is not None and self.replicas.is_chief:
                self._directory.wait()
            self.replicas.gather([0])

    def examine(self) -> examination.Findings:
        """Computes the next step eagerly, operation by operation, and says what is not finite.

        Nothing changes. Some thousand times slower than a training step.
        """
        self._opened()
        return self._examiner.examine(int(self.global_step), trace=True)

    def evaluate(self) -> dict[str, float]:
        """Runs the evaluation on the current state: name -> mean over the examples.

        `evaluations` and the run's file have the same results of a step once.

        Raises:
          ValueError: if the trainer was made without one.
          What `open` raises.
        """
        if self._evaluation is None:
            raise ValueError("Trainer: made without an evaluation; pass `evaluation=`")
        self._refuse_if_closed()
        compiled, mode = self._compiled_evaluation, self.mode
        # Training decides the mode: one that is chosen after an evaluation holds for the next.
        if compiled is None or compiled.mode != mode:
            with self.meter.phase("compile"):
                compiled = self._evaluation.compiled(mode, self.replicas)
                compiled.compile()
                self._compiled_evaluation = compiled
        with self.meter.phase("evaluate"), self.evaluated_weights():
            results = compiled()
        step = int(self.global_step)
        if self.evaluations[-1:] != [(step, results)]:  # A resume evaluates its first step again.
            self.evaluations.append((step, results))
            if self._directory is not None and self._directory.evaluation_lines is not None:
                self._directory.evaluation_lines.write([{"step": step, **results}])
        return results

    def evaluated_weights(self) -> contextlib.AbstractContextManager[None]:
        """Inside it the weights are those to evaluate: `evaluation_weights`, or their own."""
        self._opened()
        if self._evaluation_weights is None:
            return contextlib.nullcontext()
        return self._evaluation_weights.swapped(self.replicas)

    def save(self) -> None:
        """Saves a checkpoint of the current step, unless there is one; nothing without a directory.

        Raises:
          CheckpointError: the save before this one failed.
          What `open` raises.
        """
        self._refuse_if_closed()
        self._opened()
        step = int(self.global_step)
        if self._directory is None or not self.replicas.is_chief or step == self._saved_step:
            return
        best = () if self._keep_best is None else self._keep_best.steps(self.evaluations)
        with self.meter.phase("checkpoint"):
            self._directory.save(step, position.state_of(self.feed, step), pinned=best)
        self._saved_step = step

    def stop(self, reason: str) -> None:
        """Ends `train` after the current call; for actions. The next `train` starts afresh."""
        self.stop_reason = reason

    def close(self) -> None:
        """Waits for the last save, closes files and gives the directory up; once more is nothing.

        Raises:
          CheckpointError: the last save failed.
        """
        self._closed = True
        if self._directory is not None:
            with self.meter.phase("checkpoint"):
                self._directory.close()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Closes; an error that is already under way goes on, and one of closing is logged."""
        try:
            self.close()
        except Exception as closing_error:
            if error is None:
                raise
            _log.error("%s", closing_error)


def _remaining(step: int, last: int) -> int | None:
    """How many steps are to come; None where only the end of the input is the last."""
    return None if last == END_OF_INPUT else last - step
