"""The flags that say what is trained and how: data, model, optimizer, schedule."""

from __future__ import annotations

from experiments.flags.flag import INT64_MAX, Flag

DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")
MODELS = ("cnn", "mlp", "keras_cnn", "resnet")
FEEDS = ("resident", "records")
OPTIMIZERS = (
    "sgd",
    "momentum",
    "nesterov",
    "adam",
    "adamw",
    "adagrad",
    "rmsprop",
    "adadelta",
    "nadam",
    "amsgrad",
    "lion",
    "lamb",
    "lars",
    "muon",
)
WITH_MOMENTUM = ("momentum", "nesterov", "rmsprop", "lars", "muon")
SCHEDULES = (
    "constant",
    "exponential",
    "piecewise",
    "step",
    "cosine",
    "natural_exp",
    "inverse_time",
    "polynomial",
    "cosine_restarts",
    "linear_cosine",
    "one_cycle",
)


def _schedules(*names: str) -> tuple[str, tuple[str, ...]]:
    return "schedule", names


def _all_schedules_but(name: str) -> tuple[str, tuple[str, ...]]:
    return "schedule", tuple(schedule for schedule in SCHEDULES if schedule != name)


_NOT_DIGITS = ("dataset", DATASETS[1:])
_RATED = ("exponential", "natural_exp", "inverse_time", "step")
_TO_THE_END = ("cosine", "polynomial", "linear_cosine", "one_cycle")

DATA = (
    Flag("dataset", "data", "choice", "digits", "What to train on.", DATASETS),
    Flag(
        "data_dir",
        "data",
        "text",
        None,
        "The folder of the data set's files. Fashion-MNIST without it: Debian's package"
        " dataset-fashion-mnist.",
        only_with=_NOT_DIGITS,
    ),
    Flag(
        "download",
        "data",
        "bool",
        False,
        "Fetch missing files into --data_dir, verified by SHA-256.",
        only_with=_NOT_DIGITS,
    ),
    Flag(
        "feed",
        "data",
        "choice",
        "resident",
        "Where the steps take their examples from: arrays on the device, or TFRecord shards, which"
        " are read while they train. The examples, and so the run, are the same.",
        FEEDS,
    ),
    Flag(
        "records",
        "data",
        "text",
        None,
        "The folder of the shards, written there if absent; records/ of the run's directory by"
        " default.",
        only_with=("feed", ("records",)),
        shown="FOLDER",
    ),
)
MODEL = (
    Flag("model", "model", "choice", "cnn", "What to train.", MODELS),
    Flag(
        "dropout", "model", "float", 0.0, "Share of units dropped.", low=0.0, high=1.0, below=True
    ),
    Flag(
        "batch_norm",
        "model",
        "choice",
        "replica",
        "Whose examples a BatchNorm's moments are of: one replica's, or all replicas'.",
        ("replica", "synchronized"),
    ),
)
OPTIMIZER = (
    Flag("optimizer", "optimizer", "choice", "adam", "The update rule.", OPTIMIZERS),
    Flag(
        "learning_rate",
        "optimizer",
        "float",
        None,
        "The schedule's initial (one_cycle: highest) rate; by default one that suits the"
        " optimizer.",
        low=0.0,
        above=True,
        only_with=_all_schedules_but("piecewise"),
    ),
    Flag(
        "momentum",
        "optimizer",
        "float",
        None,
        "Share of the velocity kept; 0.9 by default, 0 for rmsprop, 0.95 for muon.",
        low=0.0,
        high=1.0,
        below=True,
        only_with=("optimizer", WITH_MOMENTUM),
    ),
    Flag(
        "weight_decay",
        "optimizer",
        "float",
        None,
        "Decoupled decay of kernels; 0.004 by default for adamw, else 0.",
        low=0.0,
    ),
)
SCHEDULE = (
    Flag("schedule", "schedule", "choice", "constant", "The learning rate's course.", SCHEDULES),
    Flag(
        "warmup_steps",
        "schedule",
        "int",
        0,
        "Steps of a line from 0 up to the schedule, which starts after them.",
        low=0,
        high=INT64_MAX,
        only_with=_all_schedules_but("one_cycle"),
    ),
    Flag(
        "decay_steps",
        "schedule",
        "int",
        None,
        "The schedule's unit or length in steps; by default, where the schedule ends, the steps"
        " left after the warm-up.",
        low=1,
        high=INT64_MAX,
        only_with=_schedules(*_RATED, "cosine_restarts", *_TO_THE_END),
    ),
    Flag(
        "decay_rate",
        "schedule",
        "float",
        None,
        "Factor (or rate) every --decay_steps.",
        low=0.0,
        above=True,
        only_with=_schedules(*_RATED),
    ),
    Flag(
        "staircase",
        "schedule",
        "bool",
        False,
        "Decay in jumps every --decay_steps.",
        only_with=_schedules("exponential", "natural_exp", "inverse_time"),
    ),
    Flag(
        "boundaries",
        "schedule",
        "ints",
        None,
        "Steps after which the next of --values holds.",
        low=1,
        high=INT64_MAX,
        only_with=_schedules("piecewise"),
    ),
    Flag(
        "values",
        "schedule",
        "floats",
        None,
        "Learning rates, one more than --boundaries.",
        low=0.0,
        only_with=_schedules("piecewise"),
    ),
    Flag(
        "decay_alpha",
        "schedule",
        "float",
        0.0,
        "The lowest rate as a share of the initial one.",
        low=0.0,
        high=1.0,
        only_with=_schedules("cosine", "cosine_restarts", "linear_cosine"),
    ),
    Flag(
        "decay_beta",
        "schedule",
        "float",
        0.001,
        "linear_cosine's added share.",
        low=0.0,
        only_with=_schedules("linear_cosine"),
    ),
    Flag(
        "num_periods",
        "schedule",
        "float",
        0.5,
        "Periods of linear_cosine's wave.",
        low=0.0,
        only_with=_schedules("linear_cosine"),
    ),
    Flag(
        "end_learning_rate",
        "schedule",
        "float",
        0.0001,
        "The polynomial's last rate.",
        low=0.0,
        only_with=_schedules("polynomial"),
    ),
    Flag(
        "power",
        "schedule",
        "float",
        1.0,
        "The polynomial's power.",
        low=0.0,
        above=True,
        only_with=_schedules("polynomial"),
    ),
    Flag(
        "cycle",
        "schedule",
        "bool",
        False,
        "Whether the polynomial rises again past its end.",
        only_with=_schedules("polynomial"),
    ),
    Flag(
        "t_mul",
        "schedule",
        "float",
        2.0,
        "How many times longer each restarted wave is.",
        low=1.0,
        only_with=_schedules("cosine_restarts"),
    ),
    Flag(
        "m_mul",
        "schedule",
        "float",
        1.0,
        "How many times higher each restarted wave is.",
        low=0.0,
        above=True,
        only_with=_schedules("cosine_restarts"),
    ),
    Flag(
        "warmup_fraction",
        "schedule",
        "float",
        0.3,
        "Share of one_cycle's steps that rise.",
        low=0.0,
        high=1.0,
        above=True,
        below=True,
        only_with=_schedules("one_cycle"),
    ),
    Flag(
        "initial_divisor",
        "schedule",
        "float",
        25.0,
        "one_cycle starts at --learning_rate divided by this.",
        low=0.0,
        above=True,
        only_with=_schedules("one_cycle"),
    ),
    Flag(
        "final_divisor",
        "schedule",
        "float",
        1e4,
        "one_cycle ends at its start divided by this.",
        low=0.0,
        above=True,
        only_with=_schedules("one_cycle"),
    ),
)
