"""Every flag of `python -m experiments.train`, in the order of `--help`."""

from experiments.flags import outer, run, training
from experiments.flags.flag import Flag

FLAGS: tuple[Flag, ...] = (
    *training.DATA,
    *training.MODEL,
    *training.OPTIMIZER,
    *training.SCHEDULE,
    *run.CLIPPING,
    *run.AUGMENTATION,
    *run.RUN,
    *outer.AVERAGES,
    *outer.EVALUATION,
    *outer.BEGIN_AND_END,
    *run.PRECISION,
    *run.COMPILE,
    *run.REPLICAS,
    *run.FAULTS,
)
BY_NAME: dict[str, Flag] = {flag.name: flag for flag in FLAGS}
