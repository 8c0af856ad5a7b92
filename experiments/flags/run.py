"""The flags that say how the training runs: clipping, augmentation, length, replicas, faults."""

from __future__ import annotations

from experiments.flags.flag import INT32_MAX, INT64_MAX, Flag

CLIPS = ("none", "value", "norm", "global_norm", "adaptive")
STRATEGIES = ("single", "mirrored", "multi_worker", "auto")

CLIPPING = (
    Flag(
        "clip",
        "clipping",
        "choice",
        "none",
        "Clip gradients between reduction and optimizer: each value, each tensor's norm, the"
        " norm over all, or each unit's norm by its weights' (adaptive).",
        CLIPS,
    ),
    Flag(
        "clip_norm",
        "clipping",
        "float",
        None,
        "The bound; 1 by default, 0.01 for adaptive.",
        low=0.0,
        above=True,
        only_with=("clip", CLIPS[1:]),
    ),
)
AUGMENTATION = (
    Flag(
        "augment",
        "augmentation",
        "choice",
        "none",
        "A preset, which the flags below change: article is rotation 20, shift 0.2 and flip;"
        " standard is crop 4 and flip.",
        ("none", "article", "standard"),
    ),
    Flag(
        "rotation",
        "augmentation",
        "float",
        None,
        "Rotate by up to this many degrees either way.",
        low=0.0,
        high=180.0,
    ),
    Flag(
        "shift",
        "augmentation",
        "float",
        None,
        "Shift by up to this share of height and width.",
        low=0.0,
        high=1.0,
        below=True,
    ),
    Flag(
        "zoom",
        "augmentation",
        "float",
        None,
        "Zoom by a factor within this of 1.",
        low=0.0,
        high=1.0,
        below=True,
    ),
    Flag(
        "shear",
        "augmentation",
        "float",
        None,
        "Shear by up to this many degrees.",
        low=0.0,
        high=90.0,
        below=True,
    ),
    Flag("flip", "augmentation", "bool", None, "Mirror half of the images left to right."),
    Flag(
        "crop",
        "augmentation",
        "int",
        None,
        "Pad by this many pixels and crop back at random.",
        low=0,
        high=256,
    ),
    Flag(
        "cutout",
        "augmentation",
        "int",
        None,
        "Blank a square of this many pixels a side.",
        low=0,
        high=256,
    ),
    Flag(
        "mixup",
        "augmentation",
        "float",
        None,
        "Mix pairs by a share drawn from Beta(mixup, mixup); 0 for none.",
        low=0.0,
    ),
)
RUN = (
    Flag("batch_size", "run", "int", 128, "Examples a step.", low=1, high=INT32_MAX),
    Flag("steps", "run", "int", None, "Steps in all; or give --epochs.", low=1, high=INT64_MAX),
    Flag(
        "epochs",
        "run",
        "int",
        None,
        "Times through the training data; 30 if --steps is not given either.",
        low=1,
        high=INT64_MAX,
    ),
    Flag(
        "accumulate",
        "run",
        "int",
        1,
        "Micro-batches a step, whose gradients are averaged; divides --batch_size.",
        low=1,
        high=INT32_MAX,
    ),
    Flag("seed", "run", "int", 0, "Of weights, order and noise.", low=0, high=INT64_MAX),
    Flag(
        "directory",
        "run",
        "text",
        None,
        "Where the run keeps its files, and resumes from; a fresh one by default.",
    ),
    Flag("log_every", "run", "int", 100, "Steps between log lines.", low=1, high=INT64_MAX),
    Flag(
        "tensorboard",
        "run",
        "bool",
        False,
        "Write the numbers of every step and evaluation for TensorBoard, into tensorboard/ of the"
        " run's directory.",
    ),
    Flag(
        "eval_every",
        "run",
        "int",
        0,
        "Steps between evaluations; 0 for one at the end.",
        low=0,
        high=INT64_MAX,
    ),
    Flag(
        "checkpoint_every",
        "run",
        "int",
        0,
        "Steps between checkpoints; 0 for one at the end.",
        low=0,
        high=INT64_MAX,
    ),
    Flag(
        "dump_weights",
        "run",
        "text",
        None,
        "Write weights, slots and statistics into this .npz file at the end.",
    ),
)
PRECISION = (
    Flag(
        "precision",
        "precision",
        "choice",
        "float32",
        "Numbers of weights and computation; mixed: float32 weights, half-type computation.",
        ("float32", "float64", "mixed_bfloat16", "mixed_float16"),
    ),
)
COMPILE = (
    Flag(
        "compile",
        "compile",
        "choice",
        "auto",
        "What runs the step; auto chooses and says so.",
        ("xla", "graph", "eager", "auto"),
    ),
    Flag(
        "steps_per_call",
        "compile",
        "int",
        0,
        "Steps in one compiled call; 0 chooses.",
        low=0,
        high=INT32_MAX,
    ),
)
REPLICAS = (
    Flag("strategy", "replicas", "choice", "auto", "How many devices train.", STRATEGIES),
    Flag(
        "virtual_devices",
        "replicas",
        "int",
        0,
        "Split the CPU into this many devices; 0 does not.",
        low=0,
        high=1024,
        only_with=("strategy", ("mirrored", "auto")),
    ),
    Flag(
        "meet_seconds",
        "replicas",
        "float",
        25.0,
        "Seconds from its start for which a worker waits for the others.",
        low=0.0,
        above=True,
        only_with=("strategy", ("multi_worker", "auto")),
    ),
)
FAULTS = (
    Flag(
        "on_nonfinite",
        "faults",
        "choice",
        "stop",
        "At a loss or gradient that is not finite: stop, or skip the step's update.",
        ("stop", "skip"),
    ),
    Flag(
        "max_nonfinite",
        "faults",
        "int",
        10,
        "Skipped steps in a row after which the run stops.",
        low=1,
        high=INT32_MAX,
        only_with=("on_nonfinite", ("skip",)),
    ),
    Flag(
        "stall_seconds",
        "faults",
        "float",
        60.0,
        "Seconds without a batch after which the log says that the run waits for input.",
        low=0.0,
        above=True,
    ),
    Flag(
        "allow_change",
        "faults",
        "bool",
        False,
        "Resume although settings differ from the stored ones.",
    ),
    Flag("fresh", "faults", "bool", False, "Start anew in a --directory that is not empty."),
    Flag("debug", "faults", "bool", False, "Show the traceback of an error."),
)
