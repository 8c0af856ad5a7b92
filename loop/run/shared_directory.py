"""A run's directory as its workers share it: the chief reads and writes, all know the same."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from loop.actions.meter import Meter
from loop.checkpoint import Restored
from loop.compiled.compiled_loop import Mode, StepFunction
from loop.distribute import Replicas
from loop.feeds import Feed, facts_of, position
from loop.global_step import GlobalStep
from loop.nonfinite.examination import Failure
from loop.run import saved_evaluations
from loop.run.directory import RunDirectory
from loop.variables import State
from loop.writers.lines import JsonLines

_log = logging.getLogger(__name__)

_MODES: tuple[Mode | None, ...] = (None, "xla", "graph", "eager")


class SharedDirectory:
    """Opens, saves and closes on every worker; without a directory nothing is read or written.

    Args:
      directory: the chief's; None for a run that keeps nothing.
      replicas: where the run is.
      meter: counts the time.

    Attributes:
      evaluations: (step, results) of the run's earlier evaluations; only the chief has them.
      saved_mode: the compile mode in the restored checkpoint; None without one.
      saved_step: the step of the newest checkpoint; None without one, and but on the chief.
      step_lines: the run's file of steps, once open on the chief; None else.
    """

    def __init__(self, directory: RunDirectory | None, replicas: Replicas, meter: Meter) -> None:
        self._directory = directory
        self._replicas = replicas
        self._meter = meter
        self.evaluations: list[tuple[int, dict[str, float]]] = []
        self.saved_mode: Mode | None = None
        self.saved_step: int | None = None

    @property
    def path(self) -> str | None:
        """The directory's; None without one."""
        return None if self._directory is None else str(self._directory.path)

    @property
    def step_lines(self) -> JsonLines | None:
        """See the class."""
        return None if self._directory is None else self._directory.step_lines

    @property
    def _of_chief(self) -> RunDirectory | None:
        return self._directory if self._replicas.is_chief else None

    def open(
        self, state: State, feed: Feed, step: StepFunction, global_step: GlobalStep
    ) -> Restored | None:
        """Locks the directory and gives every worker the state of its newest checkpoint.

        Args:
          state: name -> variable.
          feed: set to the restored step; what decides its examples is compared.
          step: of the run; how it takes a batch is compared too.
          global_step: the state's.

        Returns:
          What was restored; None but on the chief.

        Raises:
          RunLockError, CheckpointError, StateMismatchError, ConfigurationChangedError: one line.
          WorkerFailedError: the chief has raised one of these.
        """
        restored = None
        with self._replicas.failing_together():
            if self._of_chief is not None:
                restored = self._restored(self._of_chief, state, feed, step)
        if self._directory is not None:
            self._replicas.broadcast_from_chief(state)
            feed_state = restored.metadata.get("feed") if restored is not None else None
            position.take_up(feed, int(global_step), feed_state, self._replicas)
            # Only the chief has read the directory.
            place = _MODES.index(self._directory.saved_exactness.get("compile"))
            self.saved_mode = _MODES[int(self._replicas.gather([place])[0, 0])]
        return restored

    def _restored(
        self, directory: RunDirectory, state: State, feed: Feed, step: StepFunction
    ) -> Restored | None:
        with self._meter.phase("checkpoint"):
            exactness = {"replicas": self._replicas.count}
            data = facts_of(feed, step)
            restored = directory.open(state, exactness, seed=feed.seed, data=data)
        assert directory.evaluation_lines is not None
        saved, at = (None, 0) if restored is None else (restored.metadata, restored.step)
        believed = saved.get("evaluations") if saved is not None else []
        self.evaluations = saved_evaluations.taken_up(directory.evaluation_lines, believed, at)
        if restored is not None:
            _log.info("resumed from %s at step %d", restored.path, restored.step)
            self.saved_step = restored.step
        return restored

    def note_mode(self, mode: Mode) -> None:
        """Keeps the compile mode in the checkpoints: a bit-exact resume depends on it."""
        if self._of_chief is not None:
            self._of_chief.note_exactness("compile", mode)

    def write_evaluation(self, step: int, results: Mapping[str, Any]) -> None:
        """Adds a line to the run's file of evaluations."""
        if self._of_chief is not None and self._of_chief.evaluation_lines is not None:
            self._of_chief.evaluation_lines.write([{"step": step, **results}])

    def save(
        self, step: int, feed: Feed, evaluations: saved_evaluations.Results, pinned: Collection[int]
    ) -> None:
        """Starts to save a checkpoint of `step`, unless there is one.

        Args:
          step: finished steps.
          feed: its state is saved too.
          evaluations: those of the run so far.
          pinned: steps whose checkpoints are not deleted.

        Raises:
          CheckpointError: the save before this one failed.
        """
        if self._of_chief is not None and step != self.saved_step:
            with self._meter.phase("checkpoint"):
                self._of_chief.save(
                    step,
                    position.state_of(feed, step),
                    evaluations=saved_evaluations.encoded(evaluations),
                    pinned=pinned,
                )
            self.saved_step = step

    def save_replay(self, failure: Failure) -> str | None:
        """Saves what a replay of a failed step needs; where, in a line; None where nothing was."""
        if self._of_chief is None:
            return None
        with self._meter.phase("checkpoint"):
            return self._of_chief.save_replay(failure)

    def poll(self) -> None:
        """Raises a background save's error, if it failed; never waits."""
        if self._directory is not None:
            self._directory.poll()

    def wait_together(self) -> None:
        """Waits on every worker until the chief has saved: the end of one would cut it short."""
        if self._of_chief is not None:
            self._of_chief.wait()
        if self._replicas.workers > 1:
            self._replicas.gather([0])

    def close(self) -> None:
        """Waits for the last save, closes the files and gives the directory up.

        Raises:
          CheckpointError: the last save failed.
        """
        if self._directory is not None:
            with self._meter.phase("checkpoint"):
                self._directory.close()
