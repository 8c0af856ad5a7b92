"""The settings of a run, complete and checked: all flags of `python -m experiments.train`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.entry.errors import InputError
from experiments.flags import flag, outer, run, training
from experiments.flags.flag import Flag

DEFAULT_EPOCHS = 30


# A dataclass has the fields of its last base first: bottom up, this is the order of `--help`.
@dataclasses.dataclass(frozen=True)
class Settings(
    run.Faults,
    run.Replicas,
    run.Compile,
    run.Precision,
    outer.BeginAndEnd,
    outer.Evaluation,
    outer.Averages,
    run.Run,
    run.Augmentation,
    run.Clipping,
    training.Schedule,
    training.Optimizer,
    training.Model,
    training.Data,
):
    """The settings of a run: a field for each flag, with its default worked out.

    Of `steps` and `epochs` exactly one is None. `decay_steps` is None where the schedule is to end
    with the run. `learning_rate` is the first of `values` for the piecewise schedule.
    """

    def to_flagfile(self) -> str:
        """The flags, one a line, that `flags.parse` turns into equal settings.

        Left out: flags without a meaning beside the others, what `--augment` says already, and
        what a command asks for this once (`--fresh`, `--export` and their like).
        """
        lines = []
        values = vars(self)
        for each in FLAGS:
            value = values[each.name]
            if each.lives == "command" or value is None:
                continue
            of_preset = each.by is not None and each.by[0] == "augment"
            if of_preset and value == each.default_beside(values):
                continue
            if each.only_with and values[each.only_with[0]] not in each.only_with[1]:
                continue
            if isinstance(value, bool):
                value = "true" if value else "false"
            elif isinstance(value, tuple):
                value = ",".join(repr(number) for number in value)
            lines.append(f"--{each.name}={value}\n")
        return "".join(lines)

    def of_run(self) -> dict[str, Any]:
        """The settings that a resume must have too: another value makes it another run."""
        return {each.name: getattr(self, each.name) for each in FLAGS if each.lives == "run"}

    def total_steps(self, examples: int) -> int:
        """The steps of the run in all: `--steps`, or those of `--epochs`, the last batch included.

        Args:
          examples: for training.

        Raises:
          InputError: if a batch is larger than the data.
        """
        if self.batch_size > examples:
            raise InputError(
                "--batch_size",
                expected=f"at most the {examples} training examples of {self.dataset}",
                found=self.batch_size,
                mend="choose a smaller batch",
            )
        return self.steps or -(-(self.epochs or 0) * examples // self.batch_size)


FLAGS: tuple[Flag, ...] = flag.of_fields(Settings)
BY_NAME: dict[str, Flag] = {each.name: each for each in FLAGS}


def complete(values: Mapping[str, Any]) -> Settings:
    """The settings, with the defaults that other flags decide.

    Args:
      values: flag -> checked value, None where not given.
    """
    defaults = {each.name: each.default_beside(values) for each in FLAGS}
    if values["values"]:
        defaults["learning_rate"] = values["values"][0]
    if values["steps"] is None:
        defaults["epochs"] = DEFAULT_EPOCHS
    given = {name: value for name, value in values.items() if value is not None}
    return Settings(**{**defaults, **given})
