"""Saving in a background thread: training stops for the copy of the state, not for the disk."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import tensorflow as tf

from loop.checkpoint.directory import absolute, check_keep, checkpoint_name, retain
from loop.checkpoint.manifest import Json, checked_metadata
from loop.checkpoint.saving import write
from loop.checkpoint.values import Array, copy_to_host


@dataclasses.dataclass(frozen=True)
class Pause:
    """How long one save stopped training.

    Attributes:
      wait_seconds: for the write before it to end; 0 unless saves follow faster than the disk.
      copy_seconds: for the copy of the state to host memory.
    """

    wait_seconds: float
    copy_seconds: float


def _write_and_retain(
    directory: Path,
    step: int,
    arrays: Mapping[str, Array],
    metadata: Mapping[str, Json],
    keep: int | None,
    pinned: Collection[int],
) -> Path:
    path = write(directory, step, arrays, metadata)
    retain(directory, keep, pinned)
    return path


class AsynchronousSaver:
    """Writes checkpoints while training goes on; at most one is in flight.

    The state is copied to host memory before `save` returns; hashing, writing, forcing to the disk
    and retention happen in a thread. Its error is raised by the next `save`, `poll` or `close`, in
    the calling thread. Use it as a context manager, or call `close`.

    Args:
      directory: the run's directory. The caller holds its lock.
      keep: how many of the newest checkpoints to keep, at least 1; None keeps all.

    Raises:
      ValueError: on a `keep` below 1.
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep: int | None = None) -> None:
        check_keep(keep)
        self._directory = absolute(directory)
        self._keep = keep
        self._buffers: dict[str, Array] = {}
        # One thread for all writes: a new one for each would leave its heap behind, which the C
        # library keeps for the next thread (10 MB a checkpoint, until every heap has been used).
        # An interpreter that ends normally waits for the last write.
        self._thread = ThreadPoolExecutor(1, "write checkpoints")
        self._write: Future[Path] | None = None
        self._closed = False

    @property
    def in_flight(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._write is not None and not self._write.done()

    def save(
        self,
        step: int,
        state: Mapping[str, tf.Variable],
        metadata: Mapping[str, Json],
        *,
        pinned: Collection[int] = (),
    ) -> Pause:
        """Copies the state and starts to write its checkpoint.

        Waits for the write before it, if one is in flight.

        Args:
          step: the global step, above that of any earlier save.
          state: name -> variable.
          metadata: JSON values stored with it, copied before this returns.
          pinned: steps that retention keeps besides the newest.

        Returns:
          How long training stopped.

        Raises:
          CheckpointError: the write before it failed; nothing new is started.
          RuntimeError: after `close`.
          TypeError, ValueError: on a state, step or metadata that cannot be stored.
        """
        if self._closed:
            raise RuntimeError("AsynchronousSaver: save after close; make a new one")
        checkpoint_name(step)
        stored = checked_metadata(metadata)
        start = time.perf_counter()
        self._join()
        waited = time.perf_counter()
        self._buffers = copy_to_host(state, self._buffers)
        copied = time.perf_counter()
        self._write = self._thread.submit(
            _write_and_retain,
            self._directory,
            step,
            self._buffers,
            stored,
            self._keep,
            tuple(pinned),
        )
        return Pause(wait_seconds=waited - start, copy_seconds=copied - waited)

    def poll(self) -> Path | None:
        """The checkpoint completed since the last call, if any; never waits.

        Raises:
          CheckpointError: if its write failed.
        """
        if self._write is None or self.in_flight:
            return None
        return self._join()

    def wait(self) -> Path | None:
        """Waits for the write in flight and gives its checkpoint, if there was one.

        Raises:
          CheckpointError: if it failed.
        """
        return self._join()

    def close(self) -> Path | None:
        """Waits for the write in flight and gives its checkpoint, if there was one.

        Raises:
          CheckpointError: if it failed.
        """
        self._closed = True
        self._thread.shutdown(wait=False)
        path = self._join()
        self._buffers = {}
        return path

    def _join(self) -> Path | None:
        started, self._write = self._write, None
        return None if started is None else started.result()

    def __enter__(self) -> AsynchronousSaver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes; an error that is already under way goes on, and the write's is logged."""
        try:
            self.close()
        except Exception as write_error:
            if error is None:
                raise
            logging.getLogger(__name__).error("%s", write_error)
