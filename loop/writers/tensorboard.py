"""A writer of TensorBoard's event files: scalars of every step, images, histograms.

An event file is a TFRecord file of `Event` messages. TensorFlow has both, so the machine that
trains needs no tensorboard package; the machine that shows the curves does.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from loop.rows import Rows

PREFIX = "events.out.tfevents."
"""How the name of an event file starts, for TensorBoard to find it."""

_VERSION = "brain.Event:2"
_IMAGES = 16
_BINS = 64


class TensorBoard:
    """Writes what `tensorboard --logdir` shows.

    As a writer it is given every call's rows and every evaluation's results. Images and histograms
    are written on request, by an action:

        board = TensorBoard("runs/a/tensorboard")
        trainer = loop.Trainer(
            directory="runs/a",
            writers=[board],
            actions=[loop.Every(1000, lambda t: board.histograms(t.state, int(t.global_step)))],
            ...
        )
        board.images("batch", loop.feeds.batch_at(feed, 0)["image"], step=0)

    Any callable is a writer; one for Weights & Biases:

        class WeightsAndBiases:
            def __init__(self, project, *, name=None, run_id=None, configuration=None):
                import wandb

                self._run = wandb.init(
                    project=project, name=name, id=run_id, resume="allow", config=configuration
                )

            def __call__(self, rows):
                for row in rows:
                    step = row.pop("step")
                    self._run.log(row, step=step)

            def close(self):
                self._run.finish()

    Args:
      directory: for the files; made if absent. It may be the run's directory, or in it. Each writer
        makes a file of its own there.
      step: finished steps of the run so far. What a killed run wrote of later steps is written
        again, and the file tells TensorBoard to drop it. None for the step of the first rows or
        evaluation that the writer is given.

    Attributes:
      path: the file; it is made when something is written.

    Raises:
      OSError: as the file system does.
    """

    def __init__(self, directory: str | os.PathLike[str], *, step: int | None = None) -> None:
        # TensorBoard reads a directory's files in the order of their names.
        name = f"{PREFIX}{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.path = Path(directory) / name
        self._step = step
        self._started = False
        self._open: Any = None

    def __call__(self, rows: Rows) -> None:
        """Writes the scalars of every step."""
        self._start(rows.first_step)
        for row in rows:
            step = int(row.pop("step"))
            self._write_scalars(row, step)
        self._file.flush()

    def evaluated(self, step: int, results: Mapping[str, Any]) -> None:
        """Writes an evaluation's results; one that is no number, such as a matrix, is no curve.

        A name without a group, such as `loss`, is written as `evaluation/loss`: the steps' rows may
        have one of that name.
        """
        self._start(step)
        numbers = {n: v for n, v in results.items() if isinstance(v, (int, float))}
        self.scalars({n if "/" in n else f"evaluation/{n}": v for n, v in numbers.items()}, step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes numbers of one step."""
        self._write_scalars(values, step)
        self._file.flush()

    def images(self, name: str, images: Any, step: int, *, limit: int = _IMAGES) -> None:
        """Writes the first images of a batch.

        Args:
          name: of the batch; a slash makes a group.
          images: [B, H, W, C] of 1, 3 or 4 channels; uint8, or numbers in [0, 1], which are
            clipped to that.
          step: the global step they belong to.
          limit: images written at most.

        Raises:
          ValueError: on another shape.
        """
        pixels = np.asarray(images)
        if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3, 4):
            raise ValueError(
                f"TensorBoard: {name!r} has shape {pixels.shape}, expected images [B, H, W, C] of "
                "1, 3 or 4 channels"
            )
        if pixels.dtype != np.uint8:
            scaled = np.clip(np.nan_to_num(pixels[:limit].astype(np.float64)), 0, 1) * 255
            pixels = np.rint(scaled).astype(np.uint8)
        height, width, channels = pixels.shape[1:]
        values = [
            tf.compat.v1.Summary.Value(
                tag=f"{name}/{number}",
                image=tf.compat.v1.Summary.Image(
                    height=height,
                    width=width,
                    colorspace=channels,
                    encoded_image_string=tf.io.encode_png(image).numpy(),
                ),
            )
            for number, image in enumerate(pixels[:limit])
        ]
        self._write_summary(values, step)
        self._file.flush()

    def histograms(self, values: Mapping[str, Any], step: int) -> None:
        """Writes how the elements of arrays are spread.

        Args:
          values: name -> variable, tensor or array of numbers, such as a trainer's `state`; what is
            not finite is left out.
          step: the global step they belong to.
        """
        arrays = {name: _finite(np.asarray(value)) for name, value in values.items()}
        summaries = [
            tf.compat.v1.Summary.Value(tag=name, histo=_histogram(array))
            for name, array in arrays.items()
            if array.size
        ]
        self._write_summary(summaries, step)
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._open is not None:
            self._open.close()

    @property
    def _file(self) -> Any:
        """The file, made at the first use."""
        if self._open is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open = tf.io.TFRecordWriter(str(self.path))
            self._write(tf.compat.v1.Event(file_version=_VERSION))
            if self._step is not None:
                self._start(self._step)
        return self._open

    def _start(self, step: int) -> None:
        """Tells TensorBoard, once, to drop what it has read of the steps after `step`."""
        if not self._started:
            self._started = True
            start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
            step = step if self._step is None else self._step
            self._write(tf.compat.v1.Event(step=step + 1, session_log=start))

    def _write_scalars(self, values: Mapping[str, float], step: int) -> None:
        self._write_summary(
            [tf.compat.v1.Summary.Value(tag=n, simple_value=v) for n, v in values.items()], step
        )

    def _write_summary(self, values: list[Any], step: int) -> None:
        summary = tf.compat.v1.Summary(value=values)
        self._write(tf.compat.v1.Event(step=step, summary=summary))

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._file.write(event.SerializeToString())


def _finite(array: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    flat = array.astype(np.float64).reshape(-1)
    return flat[np.isfinite(flat)]


def _histogram(array: npt.NDArray[np.float64]) -> Any:
    counts, edges = np.histogram(array, _BINS)
    return tf.compat.v1.HistogramProto(
        min=array.min(),
        max=array.max(),
        num=array.size,
        sum=array.sum(),
        sum_squares=(array**2).sum(),
        bucket_limit=edges[1:],
        bucket=counts,
    )
