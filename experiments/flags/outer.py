"""The flags of what goes on beside the updates: averages, and what evaluations decide."""

from __future__ import annotations

from experiments.flags.flag import INT32_MAX, Flag

MONITORED = ("loss", "accuracy")
# A flag that is off at 0 is no choice, so what hangs on it is checked in `rules`.
DECISIONS = ("early_stop", "keep_best", "plateau")

AVERAGES = (
    Flag(
        "ema",
        "averages",
        "float",
        0.0,
        "Evaluate on an exponential moving average of the weights that keeps this share a step; 0"
        " for none.",
        low=0.0,
        high=1.0,
        below=True,
    ),
    Flag(
        "lookahead",
        "averages",
        "int",
        0,
        "Pull the weights half-way back to slow ones every so many steps; 0 for never.",
        low=0,
        high=INT32_MAX,
    ),
)
BEGIN_AND_END = (
    Flag(
        "init_from",
        "begin and end",
        "text",
        None,
        "Start with the weights of this run or checkpoint, where names and shapes agree; says what"
        " did.",
    ),
    Flag(
        "profile",
        "begin and end",
        "text",
        None,
        "Trace these steps for TensorBoard, into profile/ of the run's directory.",
        shown="FIRST:LAST",
    ),
    Flag(
        "predict",
        "begin and end",
        "text",
        None,
        "Write logits and labels of the test examples, in order, into this .npz file at the end.",
    ),
    Flag(
        "export",
        "begin and end",
        "text",
        None,
        "Write a SavedModel into this new folder at the end, reloaded and compared.",
    ),
    Flag(
        "sweep",
        "begin and end",
        "text",
        None,
        "Train at every point of a grid, one after another, and print a table.",
        shown="FLAG=V1,V2;FLAG=V1,...",
    ),
    Flag(
        "find_learning_rate",
        "begin and end",
        "text",
        None,
        "Instead of training, raise the rate until the loss diverges; write NAME.csv and, with"
        " matplotlib, NAME.png.",
        shown="NAME",
    ),
    Flag(
        "dry_run",
        "begin and end",
        "bool",
        False,
        "Print parameters, FLOPs, memory, steps and what will be compiled; train nothing.",
    ),
)
EVALUATION = (
    Flag(
        "metrics",
        "evaluation",
        "text",
        None,
        "What to compute over the test examples besides loss and accuracy: top_K; confusion, the"
        " matrix of label by choice; auc_C, how well class C is told from the others.",
        shown="NAME,NAME,...",
    ),
    Flag(
        "monitor",
        "evaluation",
        "choice",
        "loss",
        "The test metric that the flags below follow: the loss's least, or the accuracy's most.",
        MONITORED,
    ),
    Flag(
        "early_stop",
        "evaluation",
        "int",
        0,
        "Stop after this many evaluations without a new best; 0 for never.",
        low=0,
        high=INT32_MAX,
    ),
    Flag(
        "keep_best",
        "evaluation",
        "int",
        0,
        "Keep this many of the best evaluated checkpoints besides the newest ones.",
        low=0,
        high=INT32_MAX,
    ),
    Flag(
        "keep_last",
        "evaluation",
        "int",
        3,
        "Keep this many of the newest checkpoints.",
        low=1,
        high=INT32_MAX,
    ),
    Flag(
        "plateau",
        "evaluation",
        "int",
        0,
        "Reduce the learning rate after this many evaluations without a new best; 0 for never.",
        low=0,
        high=INT32_MAX,
    ),
    Flag(
        "plateau_factor",
        "evaluation",
        "float",
        0.1,
        "What --plateau multiplies the rate by.",
        low=0.0,
        high=1.0,
        above=True,
        below=True,
    ),
)
