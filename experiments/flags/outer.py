"""The flags of what goes on beside the updates: averages, and what evaluations decide."""

from __future__ import annotations

import dataclasses
from typing import Literal

from experiments.flags import paths
from experiments.flags.flag import INT32_MAX, flag
from experiments.flags.metrics import parsed
from experiments.flags.profile import profiled_steps


@dataclasses.dataclass(frozen=True)
class Averages:
    """Averages of the weights."""

    ema: float = flag(
        0.0,
        "Evaluate on an exponential moving average of the weights that keeps this share a step; 0"
        " for none.",
        high=1.0,
        below=True,
    )
    lookahead: int = flag(
        0,
        "Pull the weights half-way back to slow ones every so many steps; 0 for never.",
        high=INT32_MAX,
    )


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What the test examples are used for."""

    metrics: str | None = flag(
        None,
        "What to compute over the test examples besides loss and accuracy: top_K; confusion, the"
        " matrix of label by choice; auc_C, how well class C is told from the others.",
        check=lambda _, text: parsed(text),
        lives="process",
        shown="NAME,NAME,...",
    )
    monitor: Literal["loss", "accuracy"] = flag(
        "loss",
        "The test metric that the flags below follow: the loss's least, or the accuracy's most.",
        needs=("early_stop", "keep_best", "plateau"),
    )
    early_stop: int = flag(
        0,
        "Stop after this many evaluations without a new best; 0 for never.",
        high=INT32_MAX,
        needs=("eval_every",),
        lives="process",
    )
    keep_best: int = flag(
        0,
        "Keep this many of the best evaluated checkpoints besides the newest ones.",
        high=INT32_MAX,
        needs=("eval_every",),
        lives="process",
    )
    keep_last: int = flag(
        3, "Keep this many of the newest checkpoints.", low=1, high=INT32_MAX, lives="process"
    )
    plateau: int = flag(
        0,
        "Reduce the learning rate after this many evaluations without a new best; 0 for never.",
        high=INT32_MAX,
        needs=("eval_every",),
    )
    plateau_factor: float = flag(
        0.1,
        "What --plateau multiplies the rate by.",
        high=1.0,
        above=True,
        below=True,
        needs=("plateau",),
    )


@dataclasses.dataclass(frozen=True)
class BeginAndEnd:
    """What happens before, after or instead of training."""

    init_from: str | None = flag(
        None,
        "Start with the weights of this run or checkpoint, where names and shapes agree; says what"
        " did.",
        check=paths.run_or_checkpoint,
        replayed=False,
    )
    profile: str | None = flag(
        None,
        "Trace these steps for TensorBoard, into profile/ of the run's directory.",
        check=lambda _, text: profiled_steps(text),
        lives="command",
        shown="FIRST:LAST",
    )
    predict: str | None = flag(
        None,
        "Write logits and labels of the test examples, in order, into this .npz file at the end.",
        check=paths.archive,
        lives="command",
        sweep="never",
    )
    export: str | None = flag(
        None,
        "Write a SavedModel into this new folder at the end, reloaded and compared.",
        check=paths.new_folder,
        lives="command",
        sweep="never",
    )
    sweep: str | None = flag(
        None,
        "Train at every point of a grid, one after another, and print a table.",
        lives="command",
        shown="FLAG=V1,V2;FLAG=V1,...",
    )
    find_learning_rate: str | None = flag(
        None,
        "Instead of training, raise the rate until the loss diverges; write NAME.csv and, with"
        " matplotlib, NAME.png.",
        check=paths.stem,
        lives="command",
        sweep="never",
        shown="NAME",
    )
    dry_run: bool = flag(
        False,
        "Print parameters, FLOPs, memory, steps and what will be compiled; train nothing.",
        lives="command",
        sweep="never",
    )
