"""The flags that say what is trained and how: data, model, optimizer, schedule."""

from __future__ import annotations

from experiments.flags import optimizer_choices, schedule_choices
from experiments.flags.flag import INT64_MAX, Flag
from experiments.flags.optimizer_choices import WITH_MOMENTUM, defaults_in_words
from experiments.flags.schedule_choices import WITH_WARMUP, taking

DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")
MODELS = ("cnn", "mlp", "keras_cnn", "resnet")
FEEDS = ("resident", "records")
OPTIMIZERS = tuple(optimizer_choices.BY_NAME)
SCHEDULES = tuple(schedule_choices.BY_NAME)
_NOT_DIGITS = ("dataset", DATASETS[1:])

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
        only_with=taking("learning_rate"),
    ),
    Flag(
        "momentum",
        "optimizer",
        "float",
        None,
        f"Share of the velocity kept; {defaults_in_words('momentum')}.",
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
        f"Decoupled decay of kernels; {defaults_in_words('weight_decay')}.",
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
        only_with=("schedule", WITH_WARMUP),
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
        only_with=taking("decay_steps"),
    ),
    Flag(
        "decay_rate",
        "schedule",
        "float",
        None,
        "Factor (or rate) every --decay_steps.",
        low=0.0,
        above=True,
        only_with=taking("decay_rate"),
    ),
    Flag(
        "staircase",
        "schedule",
        "bool",
        False,
        "Decay in jumps every --decay_steps.",
        only_with=taking("staircase"),
    ),
    Flag(
        "boundaries",
        "schedule",
        "ints",
        None,
        "Steps after which the next of --values holds.",
        low=1,
        high=INT64_MAX,
        only_with=taking("boundaries"),
    ),
    Flag(
        "values",
        "schedule",
        "floats",
        None,
        "Learning rates, one more than --boundaries.",
        low=0.0,
        only_with=taking("values"),
    ),
    Flag(
        "decay_alpha",
        "schedule",
        "float",
        0.0,
        "The lowest rate as a share of the initial one.",
        low=0.0,
        high=1.0,
        only_with=taking("decay_alpha"),
    ),
    Flag(
        "decay_beta",
        "schedule",
        "float",
        0.001,
        "linear_cosine's added share.",
        low=0.0,
        only_with=taking("decay_beta"),
    ),
    Flag(
        "num_periods",
        "schedule",
        "float",
        0.5,
        "Periods of linear_cosine's wave.",
        low=0.0,
        only_with=taking("num_periods"),
    ),
    Flag(
        "end_learning_rate",
        "schedule",
        "float",
        0.0001,
        "The polynomial's last rate.",
        low=0.0,
        only_with=taking("end_learning_rate"),
    ),
    Flag(
        "power",
        "schedule",
        "float",
        1.0,
        "The polynomial's power.",
        low=0.0,
        above=True,
        only_with=taking("power"),
    ),
    Flag(
        "cycle",
        "schedule",
        "bool",
        False,
        "Whether the polynomial rises again past its end.",
        only_with=taking("cycle"),
    ),
    Flag(
        "t_mul",
        "schedule",
        "float",
        2.0,
        "How many times longer each restarted wave is.",
        low=1.0,
        only_with=taking("t_mul"),
    ),
    Flag(
        "m_mul",
        "schedule",
        "float",
        1.0,
        "How many times higher each restarted wave is.",
        low=0.0,
        above=True,
        only_with=taking("m_mul"),
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
        only_with=taking("warmup_fraction"),
    ),
    Flag(
        "initial_divisor",
        "schedule",
        "float",
        25.0,
        "one_cycle starts at --learning_rate divided by this.",
        low=0.0,
        above=True,
        only_with=taking("initial_divisor"),
    ),
    Flag(
        "final_divisor",
        "schedule",
        "float",
        1e4,
        "one_cycle ends at its start divided by this.",
        low=0.0,
        above=True,
        only_with=taking("final_divisor"),
    ),
)
