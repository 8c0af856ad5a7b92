"""The flags that say what is trained and how: data, model, optimizer, schedule."""

from __future__ import annotations

import dataclasses
import typing
from typing import Literal

from experiments.flags import optimizer_choices, paths, schedule_choices
from experiments.flags.flag import INT64_MAX, flag
from experiments.flags.optimizer_choices import OPTIMIZERS, WITH_MOMENTUM, defaults_in_words
from experiments.flags.schedule_choices import SCHEDULES, WITH_WARMUP, taking

DatasetName = Literal["digits", "mnist", "fashion_mnist", "cifar10", "cifar100"]
_NOT_DIGITS = ("dataset", typing.get_args(DatasetName)[1:])


@dataclasses.dataclass(frozen=True)
class Data:
    """The examples."""

    dataset: DatasetName = flag("digits", "What to train on.")
    data_dir: str | None = flag(
        None,
        "The folder of the data set's files. Fashion-MNIST without it: Debian's package"
        " dataset-fashion-mnist.",
        only_with=_NOT_DIGITS,
        check=paths.path,
        lives="process",
    )
    download: bool = flag(
        False,
        "Fetch missing files into --data_dir, verified by SHA-256.",
        only_with=_NOT_DIGITS,
        needs=("data_dir",),
        lives="process",
        replayed=False,
        sweep="beside",
    )
    feed: Literal["resident", "records"] = flag(
        "resident",
        "Where the steps take their examples from: arrays on the device, or TFRecord shards, which"
        " are read while they train. The examples, and so the run, are the same.",
        lives="process",
        replayed=False,  # the examples of one step are the resident ones
    )
    records: str | None = flag(
        None,
        "The folder of the shards, written there if absent; records/ of the run's directory by"
        " default.",
        only_with=("feed", ("records",)),
        check=paths.folder,
        lives="process",
        replayed=False,
        shown="FOLDER",
    )


@dataclasses.dataclass(frozen=True)
class Model:
    """What is trained."""

    model: Literal["cnn", "mlp", "keras_cnn", "resnet"] = flag("cnn", "What to train.")
    dropout: float = flag(0.0, "Share of units dropped.", high=1.0, below=True)
    batch_norm: Literal["replica", "synchronized"] = flag(
        "replica", "Whose examples a BatchNorm's moments are of: one replica's, or all replicas'."
    )


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The update rule."""

    optimizer: str = flag("adam", "The update rule.", choices=tuple(optimizer_choices.BY_NAME))
    learning_rate: float = flag(
        None,
        "The schedule's initial (one_cycle: highest) rate; by default one that suits the"
        " optimizer.",
        above=True,
        by=("optimizer", {choice.name: choice.learning_rate for choice in OPTIMIZERS}),
        only_with=taking("learning_rate"),
    )
    momentum: float = flag(
        # Of the optimizers that have none: what was stored with their runs stays the same.
        0.9,
        f"Share of the velocity kept; {defaults_in_words('momentum')}.",
        high=1.0,
        below=True,
        by=("optimizer", {c.name: c.momentum for c in OPTIMIZERS if c.momentum is not None}),
        only_with=("optimizer", WITH_MOMENTUM),
    )
    weight_decay: float = flag(
        None,
        f"Decoupled decay of kernels; {defaults_in_words('weight_decay')}.",
        by=("optimizer", {choice.name: choice.weight_decay for choice in OPTIMIZERS}),
    )


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate's course."""

    schedule: str = flag(
        "constant", "The learning rate's course.", choices=tuple(schedule_choices.BY_NAME)
    )
    warmup_steps: int = flag(
        0,
        "Steps of a line from 0 up to the schedule, which starts after them.",
        high=INT64_MAX,
        only_with=("schedule", WITH_WARMUP),
    )
    decay_steps: int | None = flag(
        None,
        "The schedule's unit or length in steps; by default, where the schedule ends, the steps"
        " left after the warm-up.",
        low=1,
        high=INT64_MAX,
        only_with=taking("decay_steps"),
    )
    decay_rate: float | None = flag(
        None,
        "Factor (or rate) every --decay_steps.",
        above=True,
        by=("schedule", {choice.name: choice.decay_rate for choice in SCHEDULES}),
        only_with=taking("decay_rate"),
    )
    staircase: bool = flag(
        False, "Decay in jumps every --decay_steps.", only_with=taking("staircase")
    )
    boundaries: tuple[int, ...] = flag(
        (),
        "Steps after which the next of --values holds.",
        low=1,
        high=INT64_MAX,
        only_with=taking("boundaries"),
    )
    values: tuple[float, ...] = flag(
        (), "Learning rates, one more than --boundaries.", only_with=taking("values")
    )
    decay_alpha: float = flag(
        0.0,
        "The lowest rate as a share of the initial one.",
        high=1.0,
        only_with=taking("decay_alpha"),
    )
    decay_beta: float = flag(0.001, "linear_cosine's added share.", only_with=taking("decay_beta"))
    num_periods: float = flag(
        0.5, "Periods of linear_cosine's wave.", only_with=taking("num_periods")
    )
    end_learning_rate: float = flag(
        0.0001, "The polynomial's last rate.", only_with=taking("end_learning_rate")
    )
    power: float = flag(1.0, "The polynomial's power.", above=True, only_with=taking("power"))
    cycle: bool = flag(
        False, "Whether the polynomial rises again past its end.", only_with=taking("cycle")
    )
    t_mul: float = flag(
        2.0, "How many times longer each restarted wave is.", low=1.0, only_with=taking("t_mul")
    )
    m_mul: float = flag(
        1.0, "How many times higher each restarted wave is.", above=True, only_with=taking("m_mul")
    )
    warmup_fraction: float = flag(
        0.3,
        "Share of one_cycle's steps that rise.",
        high=1.0,
        above=True,
        below=True,
        only_with=taking("warmup_fraction"),
    )
    initial_divisor: float = flag(
        25.0,
        "one_cycle starts at --learning_rate divided by this.",
        above=True,
        only_with=taking("initial_divisor"),
    )
    final_divisor: float = flag(
        1e4,
        "one_cycle ends at its start divided by this.",
        above=True,
        only_with=taking("final_divisor"),
    )
