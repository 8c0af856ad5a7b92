"""How many steps a run has."""

from __future__ import annotations

from experiments.data.datasets import Dataset
from experiments.entry.errors import InputError
from experiments.flags import Settings


def total(settings: Settings, data: Dataset) -> int:
    """The steps of a run in all: `--steps`, or those of `--epochs`, the last batch included.

    Raises:
      InputError: if a batch is larger than the data.
    """
    size = len(data.train_images)
    if settings.batch_size > size:
        raise InputError(
            "--batch_size",
            expected=f"at most the {size} training examples of {data.name}",
            found=settings.batch_size,
            mend="choose a smaller batch",
        )
    if settings.steps is not None:
        return settings.steps
    return -(-(settings.epochs or 0) * size // settings.batch_size)
