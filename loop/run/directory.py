"""A run's directory: its lock, its checkpoints, and whether a resume is the same run."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from loop import checkpoint
from loop.checkpoint import Restored
from loop.checkpoint.asynchronous import AsynchronousSaver
from loop.feeds import facts
from loop.nonfinite import replay_file
from loop.nonfinite.examination import Failure
from loop.run import lock
from loop.variables import State
from loop.writers import tensorboard
from loop.writers.lines import JsonLines

_log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
EVALUATIONS = "evaluations.jsonl"
_OWN_FILES = (lock.FILE_NAME, METRICS, EVALUATIONS, f"{tensorboard.PREFIX}*", "*.damaged-*")


class ConfigurationChangedError(RuntimeError):
    """A resume with other settings or other data than the saved run's."""


class RunDirectory:
    """Holds a directory for one run; opened before the first step, closed after the last.

    Args:
      path: the directory; made if absent.
      configuration: the settings that make it this run, JSON values. Harmless ones (how often to
        log) do not belong here.
      keep: newest checkpoints kept; None keeps all.
      known: names of the caller's own files that may be there before the first checkpoint, or
        patterns as the shell's.
      allow_change: resume with another configuration or other data, after saying what differs. The
        examples of the epoch in which the data or the batch size changes are not each seen once.
      fresh: start at step 0 where the directory holds no valid checkpoint.
      rebuild: JSON values that a replay file carries, from which its reader makes the run's parts.

    Attributes:
      path: see above.
      step_lines: `metrics.jsonl`, a line for each step; None until opened.
      evaluation_lines: `evaluations.jsonl`, a line for each evaluation; None until opened.

    Raises:
      ValueError: on a `keep` below 1.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        configuration: Mapping[str, Any] | None = None,
        keep: int | None = 3,
        known: Collection[str] = (),
        allow_change: bool = False,
        fresh: bool = False,
        rebuild: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self._configuration = dict(configuration or {})
        self._metadata: dict[str, Any] = {}
        self._saved_exactness: dict[str, Any] = {}
        self._state: State = {}
        self.step_lines: JsonLines | None = None
        self.evaluation_lines: JsonLines | None = None
        self._known = [*_OWN_FILES, *known]
        self._allow_change = allow_change
        self._fresh = fresh
        self._rebuild = dict(rebuild or {})
        self._lock = lock.RunLock(path)
        self._saver = AsynchronousSaver(path, keep=keep)

    def expect(self, paths: Iterable[Path]) -> None:
        """Adds files in it that may be there before the first checkpoint: what writers write."""
        root = self.path.absolute()
        for path in paths:
            if path.absolute().is_relative_to(root):
                self._known.append(path.absolute().relative_to(root).parts[0])

    def open(
        self,
        state: State,
        exactness: Mapping[str, Any],
        *,
        seed: int,
        data: Mapping[str, Any] | None = None,
    ) -> Restored | None:
        """Locks the directory, restores the newest sound checkpoint and opens the files of lines.

        Args:
          state: name -> variable, all that a resume needs.
          exactness: what a bit-exact resume depends on besides the machine and what
            `note_exactness` adds later.
          seed: the run's; part of the configuration, since another one gives other examples.
          data: what else decides the examples (`loop.feeds.facts_of`), JSON values. Of these the
            names that both runs have are compared; an earlier version's checkpoint has none.

        Returns:
          What was restored; None for a start at step 0.

        Raises:
          RunLockError: another run holds the directory.
          CheckpointError: it cannot be written, holds no sound checkpoint among damaged ones, or
            something else; nothing was changed.
          ConfigurationChangedError: settings or data differ and `allow_change` is not set; lists
            what differs.
        """
        self._state = state
        self._metadata = {
            "configuration": {"seed": seed, **self._configuration},
            "exactness": {**exactness, **checkpoint.environment()},
            "data": dict(data or {}),
        }
        self._lock.acquire()
        try:
            restored = self._restored(state)
            step = 0 if restored is None else restored.step
            self.step_lines = JsonLines(self.path / METRICS, step=step)
            self.evaluation_lines = JsonLines(self.path / EVALUATIONS, step=step)
            return restored
        except BaseException:
            self._lock.release()  # So that what was refused can be corrected and opened again.
            raise

    def _restored(self, state: State) -> Restored | None:
        """Restores the newest sound checkpoint under the lock."""
        checkpoint.check_writable(self.path)
        checkpoint.clean_orphans(self.path)
        restored = None if self._fresh else checkpoint.restore_latest(self.path, state)
        if restored is None:
            checkpoint.require_start(self.path, known=self._known, fresh=self._fresh)
            return None
        for line in restored.skipped:
            _log.warning("%s", line)
        self._compare(restored)
        return restored

    def _compare(self, restored: Restored) -> None:
        saved = restored.metadata
        settings = checkpoint.differences(
            saved.get("configuration", {}), self._metadata["configuration"]
        )
        data = _differences_of_common(saved.get("data", {}), self._metadata["data"])
        repaired = [n for n in data if facts.is_repaired(saved.get("data"), n.partition(":")[0])]
        for line in repaired:
            _log.warning("the data were not finite, and are taken as repaired: %s", line)
        # A setting may be a fact of the data.
        changed = [n for n in dict.fromkeys([*settings, *data]) if n not in repaired]
        if changed and not self._allow_change:
            raise ConfigurationChangedError(
                f"{self.path}: the settings or the data differ from the saved run's "
                f"({'; '.join(changed)}); start with the same ones or in another directory, or "
                "accept it by loop.RunDirectory(..., allow_change=True), a program's --allow_change"
            )
        for line in changed:
            _log.warning("resuming with a changed setting: %s", line)
        if self._metadata["data"] and "data" not in saved:
            _log.info("%s tells nothing of its data, which was not compared", restored.path)
        self._saved_exactness = dict(saved.get("exactness", {}))
        known = {k: v for k, v in self._saved_exactness.items() if k in self._metadata["exactness"]}
        _warn_inexact(checkpoint.differences(known, self._metadata["exactness"]))

    @property
    def saved_exactness(self) -> Mapping[str, Any]:
        """What the restored run's bits depended on; empty for a start at step 0."""
        return self._saved_exactness

    def note_exactness(self, name: str, value: Any) -> None:
        """Adds what a bit-exact resume depends on and is known only after `open`."""
        self._metadata["exactness"][name] = value
        if name in self._saved_exactness:
            saved = {name: self._saved_exactness[name]}
            _warn_inexact(checkpoint.differences(saved, {name: value}))

    def save(
        self,
        step: int,
        feed_state: Any | None = None,
        *,
        evaluations: Any = (),
        pinned: Collection[int] = (),
    ) -> None:
        """Starts to save a checkpoint of `step`; training goes on after the copy of the state.

        Retention does not delete the checkpoints that replay files need.

        Args:
          step: finished steps.
          feed_state: JSON values that a feed with a state of its own needs to go on from there.
          evaluations: JSON values of the run's evaluations so far.
          pinned: steps whose checkpoints retention does not delete either.

        Raises:
          CheckpointError: the save before this one failed.
        """
        metadata = {**self._metadata, "feed": feed_state, "evaluations": list(evaluations)}
        kept = {*replay_file.steps_in(self.path), *pinned}
        self._saver.save(step, self._state, metadata, pinned=kept)

    def save_replay(self, failure: Failure) -> str:
        """Saves the state before a step that is not finite, and a replay file; waits for both.

        Returns:
          Where the file is, for the message; or, in a line, why it could not be written.
        """
        try:
            self._saver.wait()
            path = checkpoint.save(self.path, failure.step, self._state, self._metadata)
            ids = failure.example_ids
            variables = failure.findings.variables if failure.findings else None
            file = replay_file.Replay(
                step=failure.step,
                seed=failure.seed,
                checkpoint=path.name,
                state_sha256=checkpoint.state_sha256(self._state),
                row=replay_file.as_json(failure.row),
                example_ids=None if ids is None else [int(number) for number in ids],
                variables=None if variables is None else list(variables),
                rebuild=self._rebuild,
            ).write(self.path)
        except checkpoint.CheckpointError as error:
            return f"no replay file: {error}"
        return f"replay file {file}"

    def wait(self) -> None:
        """Waits until the last save is on the disk.

        Raises:
          CheckpointError: it failed.
        """
        self._saver.wait()

    def poll(self) -> None:
        """Raises a background save's error, if it failed; never waits."""
        self._saver.poll()

    def close(self) -> None:
        """Waits for the last save, closes the files and gives the directory up.

        Raises:
          CheckpointError: the last save failed.
        """
        with contextlib.ExitStack() as last_first:  # Each, even where one raises.
            last_first.callback(self._lock.release)
            last_first.callback(self._saver.close)
            for lines in (self.step_lines, self.evaluation_lines):
                if lines is not None:
                    last_first.callback(lines.close)


def _differences_of_common(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """The differences under the names that both have."""
    common = saved.keys() & current.keys()
    return checkpoint.differences(
        *({name: one[name] for name in common} for one in (saved, current))
    )


def _warn_inexact(lines: list[str]) -> None:
    if lines:
        _log.warning(
            "this resume is not bit-exact: the same examples and random numbers, but %s",
            "; ".join(lines),
        )
