"""The outer loop: cuts calls at boundaries and does there what needs the host."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tensorflow as tf

from loop import distribute
from loop.actions.best import BestCheckpoints
from loop.actions.every import Boundaries, Every, in_order
from loop.actions.meter import Meter
from loop.actions.progress import Progress
from loop.averaging.shadow_weights import ShadowWeights
from loop.checkpoint import Restored
from loop.compiled.compiled_loop import CompiledLoop, Mode, Outcome, StepFunction
from loop.computation import Computation
from loop.errors import NonFiniteError
from loop.evaluation.evaluation import Evaluation
from loop.evaluation.run_evaluations import RunEvaluations
from loop.feeds import Feed, as_feed
from loop.feeds.epochs import END_OF_INPUT, last_step
from loop.global_step import GlobalStep
from loop.nonfinite import examination
from loop.rows import Rows
from loop.run.calls import Calls
from loop.run.directory import RunDirectory
from loop.run.shared_directory import SharedDirectory
from loop.run.signals import StopSignals, held_back
from loop.writers import history
from loop.writers.history import History
from loop.writers.lines import Writer

_log = logging.getLogger(__name__)

PROGRESS_SECONDS = 10.0
"""Between two lines of progress where there is no bar."""


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
      compile: "xla", "graph", "eager" or "auto" (see `loop.compiled.auto`).
      steps_per_call: the most steps a call runs; None for the feed's own number (256 for arrays).
      replicas: where the steps run; model and optimizer must be made within its `scope()`.
      evaluation: what `evaluate` runs: one, or several by name, whose results are then named
        `name/metric`.
      evaluation_weights: what it runs on instead of the trained weights, a `WeightEMA`.
      evaluate_every: steps; 0 for only when asked.
      checkpoint_every: steps; 0 for only at the end.
      keep_best: which checkpoints to keep besides the newest.
      actions: what else to do at which boundaries.
      writers: given every call's rows. One that raises OSError is given no more of them, with a
        log line; another error ends training after a save.
      on_nonfinite: "stop" at the first non-finite step, or "skip" up to `max_nonfinite` in a row.
      max_nonfinite: see on_nonfinite.
      stall_seconds: without a batch, after which the log says that the run waits for its input.
      scratch: variables that the step may assign and that no resume needs.
      stateful_random: whether the step may draw random numbers that do not follow from seed and
        step (`tf.random.normal`); a log line then says that its resume is not exact.
      stop_signals: entered by the caller around `train`, which then returns after a signal. None:
        `train` answers SIGINT (Ctrl-C), SIGTERM and SIGHUP by itself, and raises when it has saved.
      progress: whether the chief shows on stderr how `train` goes: a bar on a terminal and in a
        notebook, a line every ten seconds elsewhere.

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
        evaluation: Evaluation | Mapping[str, Evaluation] | None = None,
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
        progress: bool = False,
    ) -> None:
        if on_nonfinite not in ("stop", "skip"):
            raise ValueError(f"Trainer: on_nonfinite must be stop or skip, got {on_nonfinite!r}")
        if not stall_seconds > 0:
            raise ValueError(f"Trainer: stall_seconds must be above 0, got {stall_seconds}")
        if evaluate_every and evaluation is None:
            raise ValueError(f"Trainer: evaluate_every={evaluate_every} needs an evaluation")
        self.feed: Feed = as_feed(feed, "Trainer")
        self._step = step
        self.meter = Meter()
        self.replicas = replicas or distribute.single()
        with self.replicas.scope():
            self.global_step = GlobalStep()
        if steps_per_call is None:
            steps_per_call = int(getattr(self.feed, "steps_per_call", 64))
        self.steps_per_call = steps_per_call
        computation = Computation.of(
            step,
            self.feed,
            state,
            self.global_step,
            self.replicas,
            compile=compile,
            steps_per_call=steps_per_call,
            scratch=scratch,
            stateful_random=stateful_random,
        )
        self.state = computation.state
        self._choice, self._examiner = computation.choice, computation.examiner
        self._calls = Calls(
            self.replicas,
            self.meter,
            steps_per_call=steps_per_call,
            batch_size=self.feed.batch_size,
            max_nonfinite=max_nonfinite if on_nonfinite == "skip" else 0,
            stall_seconds=stall_seconds,
        )
        self._evaluations = RunEvaluations(
            evaluation, evaluation_weights, self.replicas, self.meter
        )
        self.evaluations = self._evaluations.results
        self._writers = list(writers)
        self._kept = History()
        self._shows_progress = progress and self.replicas.is_chief
        self._stop_signals = stop_signals
        if isinstance(directory, (str, os.PathLike)):
            directory = RunDirectory(directory)
        if directory is not None:
            paths = [getattr(writer, "path", None) for writer in writers]
            directory.expect(path for path in paths if isinstance(path, Path))
        self._directory = SharedDirectory(directory, self.replicas, self.meter)
        self._keep_best = keep_best
        if keep_best is not None:
            actions = [*actions, Every(keep_best.monitor.every, keep_best)]
        self._actions = in_order(evaluate_every, actions, checkpoint_every)
        self.rows: Rows | None = None
        self.stop_reason: str | None = None
        self.stop_signal: int | None = None
        self._signals: StopSignals | None = None
        self._ready = False
        self._closed = False
        self._chosen: CompiledLoop | None = None

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
        return self._choice.before_training(self._directory.saved_mode)

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
                self._chosen = self._choice.loop(steps=steps, saved=self._directory.saved_mode)
            self._directory.note_mode(self._chosen.mode)
        return self._chosen

    @held_back()
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
        restored = self._directory.open(self.state, self.feed, self._step, self.global_step)
        self.evaluations[:] = self._directory.evaluations
        self._ready = True
        return restored

    def _opened(self) -> None:
        """Opens what was not opened."""
        if not self._ready:
            self.open()

    def _refuse_if_closed(self) -> None:
        if self._closed and self._directory.path is not None:
            raise RuntimeError(
                f"Trainer: closed, and {self._directory.path} given up; do it before `close` "
                "(within the `with` block), or make another trainer to go on"
            )

    def train(self, *, until: int | None = None, epochs: int | None = None) -> None:
        """Trains until `until` steps are finished in all, then saves.

        An input that ends before ends training in the same way; `stop_reason` then says so.

        In the main thread the first SIGINT (Ctrl-C, a notebook's stop button) or SIGTERM on any
        worker ends training after the call under way: its rows are written and the checkpoint is
        on the disk. Then the handlers from before are in place, and the signal acts as it would
        have: SIGINT raises KeyboardInterrupt, SIGTERM SystemExit(143), a handler of the caller's
        own is called. A second signal ends the process at once; in a notebook or at a prompt a
        second Ctrl-C raises KeyboardInterrupt at once. With `stop_signals=`, and in other threads,
        no handler is set.

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
          KeyboardInterrupt, SystemExit: after a signal; `train` goes on from there.
        """
        self._refuse_if_closed()
        last = last_step(self.feed, until, epochs)
        self.stop_reason, self.stop_signal = None, None
        with held_back(self._stop_signals) as self._signals:
            self._train(last)

    def _train(self, last: int) -> None:
        self._opened()
        step = int(self.global_step)
        if step < last:
            # First: an evaluation at the start is then compiled in the same mode.
            self.compiled_loop(steps=_remaining(step, last))
        for every in self._actions:
            if every.at_start and every.is_due(step):
                every.action(self)
        self._answer_signal()
        if step < last and self.stop_reason is None:
            step = self._trained(step, last)
        for every in self._actions:
            if every.at_end and not every.is_due(step):
                every.action(self)
        self.save()
        if self.stop_signal is not None:
            self._directory.wait_together()

    def _trained(self, step: int, until: int) -> int:
        """Call after call, and what is due between them; the step where it ended."""
        progress = None
        with contextlib.ExitStack() as last_first:
            if self._shows_progress:
                known = None if until == END_OF_INPUT else until
                progress = last_first.enter_context(Progress(known, seconds=PROGRESS_SECONDS))
            outcomes = self._calls.outcomes(
                self.compiled_loop(steps=_remaining(step, until)),
                step=step,
                until=until,
                next_boundary=lambda step: min(
                    [until, *(every.next_boundary(step) for every in self._actions)]
                ),
                save=self.save,
            )
            for outcome in last_first.enter_context(contextlib.closing(outcomes)):
                self.rows = outcome.rows
                record = self._directory.step_lines or self._kept
                record(outcome.rows)
                if outcome.stopped:
                    self._show(outcome.rows)
                    self._raise_nonfinite(outcome)
                step += len(outcome.rows)
                if progress is not None:
                    progress(self)
                self._boundary(step)
                self._show(outcome.rows)
                self._answer_signal()
                if self.stop_reason is not None:
                    return step
        if step < until:
            self.stop(f"the input ended at step {step}")
            wanted = "" if until == END_OF_INPUT else f", before step {until}"
            level = logging.WARNING if wanted else logging.INFO
            _log.log(level, "%s%s: training ends here", self.stop_reason, wanted)
        return step

    def _show(self, rows: Rows) -> None:
        """Gives the rows to the writers, after what is due at their end: saving comes first."""
        for writer in [*self._writers]:
            try:
                with self._dropping_if_it_cannot_write(writer):
                    writer(rows)
            except Exception:
                self.save()
                raise

    @contextlib.contextmanager
    def _dropping_if_it_cannot_write(self, writer: Writer) -> Iterator[None]:
        """What only shows does not end a run: such a writer is given nothing more."""
        try:
            yield
        except OSError as error:
            self._writers.remove(writer)
            _log.error(
                "%s cannot write (%s): it is given nothing more", type(writer).__name__, error
            )

    def _boundary(self, step: int) -> None:
        self._directory.poll()
        for every in self._actions:
            if every.is_due(step):
                every.action(self)

    def _answer_signal(self) -> None:
        """Stops on every worker if one has noted a signal."""
        signals = self._signals
        received = signals.received if signals is not None else None
        highest = int(self.replicas.gather([received or 0])[:, 0].max())
        if not highest:
            return
        self.stop_signal = highest
        self.stop(f"signal {highest}")
        if signals is not None and received is None:
            signals.received = highest  # So that `train` raises on every worker.

    def _raise_nonfinite(self, outcome: Outcome) -> None:
        """Saves the state before the step and a replay file, and says what is not finite."""
        failure = examination.Failure.of(int(self.global_step), self.feed, outcome)
        line = failure.message(self._examiner)
        if replay := self._directory.save_replay(failure):
            line += f"; {replay}"
        self._directory.wait_together()
        raise NonFiniteError(line, failure.step)

    def examine(self) -> examination.Findings:
        """Computes the next step eagerly, operation by operation, and says what is not finite.

        Nothing changes. Some thousand times slower than a training step.
        """
        self._opened()
        return self._examiner.examine(int(self.global_step), trace=True)

    def evaluate(self) -> dict[str, Any]:
        """Runs the evaluations on the current state: name -> metric over the examples.

        `evaluations`, the run's file and the writers (see `loop.writers.lines.Writer`) have the
        same results of a step once.

        Raises:
          ValueError: if the trainer was made without one.
          What `open` raises.
        """
        self._evaluations.require()
        self._refuse_if_closed()
        mode = self.mode  # Opens the run, which sets the step.
        step = int(self.global_step)
        results = self._evaluations.run(mode)
        with held_back():
            if self._evaluations.record(step, results):
                self._directory.write_evaluation(step, results)
                for writer in [*self._writers]:
                    if hasattr(writer, "evaluated"):
                        with self._dropping_if_it_cannot_write(writer):
                            writer.evaluated(step, results)
        return results

    def history(self, *, evaluations: bool = False, as_frame: bool = False) -> Any:
        """The run's numbers so far as arrays of one length, to plot or to compute with.

        The chief of a run with a directory has the earlier processes' too; any other trainer has
        those of its own steps, which it keeps in memory.

        Args:
          evaluations: those of the evaluations instead of the steps'.
          as_frame: as a `pandas.DataFrame` with the steps as index.

        Returns:
          "step" -> int64 [N] and name -> float64 [N, ...], with NaN where there is no number.

        Raises:
          ModuleNotFoundError: `as_frame` without pandas.
          What `open` raises.
        """
        if not self._closed:
            self._opened()
        lines = self._directory.step_lines
        if evaluations:
            records = [{"step": step, **results} for step, results in self.evaluations]
        elif lines is not None:
            records = history.read_lines(lines.path)
        else:
            records = self._kept.records()
        found = history.columns(records)
        return history.frame(found) if as_frame else found

    def evaluated_weights(self) -> contextlib.AbstractContextManager[None]:
        """Inside it the weights are those to evaluate: `evaluation_weights`, or their own."""
        self._opened()
        return self._evaluations.weights()

    @held_back()
    def save(self) -> None:
        """Saves a checkpoint of the current step, unless there is one; nothing without a directory.

        Raises:
          CheckpointError: the save before this one failed.
          What `open` raises.
        """
        self._refuse_if_closed()
        self._opened()
        best = () if self._keep_best is None else self._keep_best.steps(self.evaluations)
        self._directory.save(int(self.global_step), self.feed, self.evaluations, best)

    def stop(self, reason: str) -> None:
        """Ends `train` after the current call; for actions. The next `train` starts afresh."""
        self.stop_reason = reason

    @held_back()
    def close(self) -> None:
        """Waits for the last save, closes files and gives the directory up; once more is nothing.

        Raises:
          CheckpointError: the last save failed.
        """
        self._closed = True
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
