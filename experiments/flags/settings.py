"""The settings of a run, complete and checked."""

from __future__ import annotations

import dataclasses
from typing import Literal

from experiments.flags import defaults, table

# What a command asks for this once; not part of what reproduces a run.
_NOT_STORED = frozenset(
    {"allow_change", "fresh", "debug", "profile", "predict", "export"}
    | {"sweep", "find_learning_rate", "dry_run"}
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a run: a field for each flag of the same name, its defaults worked out.

    Of `steps` and `epochs` exactly one is None. `decay_steps` is None where the schedule is to end
    with the run. `learning_rate` is the first of `values` for the piecewise schedule.
    """

    dataset: Literal["digits", "mnist", "fashion_mnist", "cifar10", "cifar100"]
    data_dir: str | None
    download: bool
    feed: Literal["resident", "records"]
    records: str | None
    model: Literal["cnn", "mlp", "keras_cnn", "resnet"]
    dropout: float
    batch_norm: Literal["replica", "synchronized"]
    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    schedule: str
    warmup_steps: int
    decay_steps: int | None
    decay_rate: float | None
    staircase: bool
    boundaries: tuple[int, ...]
    values: tuple[float, ...]
    decay_alpha: float
    decay_beta: float
    num_periods: float
    end_learning_rate: float
    power: float
    cycle: bool
    t_mul: float
    m_mul: float
    warmup_fraction: float
    initial_divisor: float
    final_divisor: float
    clip: Literal["none", "value", "norm", "global_norm", "adaptive"]
    clip_norm: float | None
    augment: Literal["none", "article", "standard"]
    rotation: float
    shift: float
    zoom: float
    shear: float
    flip: bool
    crop: int
    cutout: int
    mixup: float
    batch_size: int
    steps: int | None
    epochs: int | None
    accumulate: int
    seed: int
    directory: str | None
    log_every: int
    tensorboard: bool
    eval_every: int
    checkpoint_every: int
    dump_weights: str | None
    ema: float
    lookahead: int
    metrics: str | None
    monitor: Literal["loss", "accuracy"]
    early_stop: int
    keep_best: int
    keep_last: int
    plateau: int
    plateau_factor: float
    init_from: str | None
    profile: str | None
    predict: str | None
    export: str | None
    sweep: str | None
    find_learning_rate: str | None
    dry_run: bool
    precision: Literal["float32", "float64", "mixed_bfloat16", "mixed_float16"]
    compile: Literal["xla", "graph", "eager", "auto"]
    steps_per_call: int
    strategy: Literal["single", "mirrored", "multi_worker", "auto"]
    virtual_devices: int
    meet_seconds: float
    on_nonfinite: Literal["stop", "skip"]
    max_nonfinite: int
    stall_seconds: float
    allow_change: bool
    fresh: bool
    debug: bool

    def to_flagfile(self) -> str:
        """The flags, one a line, that `flags.parse` turns into equal settings.

        Left out: flags without a meaning beside the others, what `--augment` says already, and
        what a command asks for this once (`--fresh`, `--export` and their like).
        """
        lines = []
        preset = defaults.augmentation(self.augment)
        for flag in table.FLAGS:
            value = getattr(self, flag.name)
            if flag.name in _NOT_STORED or value is None:
                continue
            if flag.name in preset and value == preset[flag.name]:
                continue
            if flag.only_with and getattr(self, flag.only_with[0]) not in flag.only_with[1]:
                continue
            if isinstance(value, bool):
                value = "true" if value else "false"
            elif isinstance(value, tuple):
                value = ",".join(repr(number) for number in value)
            lines.append(f"--{flag.name}={value}\n")
        return "".join(lines)
