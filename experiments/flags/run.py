"""The flags that say how the training runs: clipping, augmentation, length, replicas, faults."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, Literal

from experiments.flags import paths
from experiments.flags.flag import INT32_MAX, INT64_MAX, flag

Clip = Literal["none", "value", "norm", "global_norm", "adaptive"]
_CLIPS = typing.get_args(Clip)[1:]


def _preset(**values: Any) -> tuple[str, dict[str, Any]]:
    return "augment", values


@dataclasses.dataclass(frozen=True)
class Clipping:
    """What bounds the gradients."""

    clip: Clip = flag(
        "none",
        "Clip gradients between reduction and optimizer: each value, each tensor's norm, the norm"
        " over all, or each unit's norm by its weights' (adaptive).",
    )
    clip_norm: float | None = flag(
        None,
        "The bound; 1 by default, 0.01 for adaptive.",
        above=True,
        by=("clip", {**dict.fromkeys(_CLIPS, 1.0), "adaptive": 0.01}),
        only_with=("clip", _CLIPS),
    )


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What changes the images; a preset's values where not given."""

    augment: Literal["none", "article", "standard"] = flag(
        "none",
        "A preset, which the flags below change: article is rotation 20, shift 0.2 and flip;"
        " standard is crop 4 and flip.",
    )
    rotation: float = flag(
        0.0, "Rotate by up to this many degrees either way.", high=180.0, by=_preset(article=20.0)
    )
    shift: float = flag(
        0.0,
        "Shift by up to this share of height and width.",
        high=1.0,
        below=True,
        by=_preset(article=0.2),
    )
    zoom: float = flag(
        0.0, "Zoom by a factor within this of 1.", high=1.0, below=True, by=_preset()
    )
    shear: float = flag(
        0.0, "Shear by up to this many degrees.", high=90.0, below=True, by=_preset()
    )
    flip: bool = flag(
        False, "Mirror half of the images left to right.", by=_preset(article=True, standard=True)
    )
    crop: int = flag(
        0, "Pad by this many pixels and crop back at random.", high=256, by=_preset(standard=4)
    )
    cutout: int = flag(0, "Blank a square of this many pixels a side.", high=256, by=_preset())
    mixup: float = flag(
        0.0, "Mix pairs by a share drawn from Beta(mixup, mixup); 0 for none.", by=_preset()
    )


@dataclasses.dataclass(frozen=True)
class Run:
    """Length, randomness and files."""

    batch_size: int = flag(128, "Examples a step.", low=1, high=INT32_MAX)
    steps: int | None = flag(
        None, "Steps in all; or give --epochs.", low=1, high=INT64_MAX, lives="process"
    )
    epochs: int | None = flag(
        None,
        "Times through the training data; 30 if --steps is not given either.",
        low=1,
        high=INT64_MAX,
        lives="process",
    )
    accumulate: int = flag(
        1,
        "Micro-batches a step, whose gradients are averaged; divides --batch_size.",
        low=1,
        high=INT32_MAX,
    )
    # The run's directory compares the seed itself, as it does what bit-exactness depends on:
    # compile mode, devices, replicas.
    seed: int = flag(0, "Of weights, order and noise.", high=INT64_MAX, lives="process")
    directory: str | None = flag(
        None,
        "Where the run keeps its files, and resumes from; a fresh one by default.",
        check=paths.folder,
        lives="process",
        replayed=False,
    )
    log_every: int = flag(100, "Steps between log lines.", low=1, high=INT64_MAX, lives="process")
    tensorboard: bool = flag(
        False,
        "Write the numbers of every step and evaluation for TensorBoard, into tensorboard/ of the"
        " run's directory.",
        lives="process",
    )
    eval_every: int = flag(
        0, "Steps between evaluations; 0 for one at the end.", high=INT64_MAX, lives="process"
    )
    checkpoint_every: int = flag(
        0, "Steps between checkpoints; 0 for one at the end.", high=INT64_MAX, lives="process"
    )
    dump_weights: str | None = flag(
        None,
        "Write weights, slots and statistics into this .npz file at the end.",
        check=paths.archive,
        lives="process",
        replayed=False,
        sweep="never",
    )


@dataclasses.dataclass(frozen=True)
class Precision:
    """The numbers' types."""

    precision: Literal["float32", "float64", "mixed_bfloat16", "mixed_float16"] = flag(
        "float32",
        "Numbers of weights and computation; mixed: float32 weights, half-type computation.",
    )


@dataclasses.dataclass(frozen=True)
class Compile:
    """What runs the steps."""

    compile: Literal["xla", "graph", "eager", "auto"] = flag(
        "auto", "What runs the step; auto chooses and says so.", lives="process", replayed=False
    )
    steps_per_call: int = flag(
        0, "Steps in one compiled call; 0 chooses.", high=INT32_MAX, lives="process"
    )


@dataclasses.dataclass(frozen=True)
class Replicas:
    """Where the steps run."""

    strategy: Literal["single", "mirrored", "multi_worker", "auto"] = flag(
        "auto", "How many devices train.", lives="process", replayed=False
    )
    virtual_devices: int = flag(
        0,
        "Split the CPU into this many devices; 0 does not.",
        high=1024,
        only_with=("strategy", ("mirrored", "auto")),
        lives="process",
        replayed=False,
    )
    meet_seconds: float = flag(
        25.0,
        "Seconds from its start for which a worker waits for the others.",
        above=True,
        only_with=("strategy", ("multi_worker", "auto")),
        lives="process",
    )


@dataclasses.dataclass(frozen=True)
class Faults:
    """What is done when something is wrong."""

    on_nonfinite: Literal["stop", "skip"] = flag(
        "stop",
        "At a loss or gradient that is not finite: stop, or skip the step's update.",
        lives="process",
    )
    max_nonfinite: int = flag(
        10,
        "Skipped steps in a row after which the run stops.",
        low=1,
        high=INT32_MAX,
        only_with=("on_nonfinite", ("skip",)),
        lives="process",
    )
    stall_seconds: float = flag(
        60.0,
        "Seconds without a batch after which the log says that the run waits for input.",
        above=True,
        lives="process",
    )
    allow_change: bool = flag(
        False,
        "Resume although settings or data differ from the stored ones.",
        needs=("directory",),
        lives="command",
    )
    fresh: bool = flag(
        False,
        "Start anew in a --directory that is not empty.",
        needs=("directory",),
        lives="command",
    )
    debug: bool = flag(False, "Show the traceback of an error.", lives="command")
