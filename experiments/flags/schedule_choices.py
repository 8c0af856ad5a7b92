"""The choices of `--schedule`: where each function is, and which flags give its arguments.

Flags are checked before TensorFlow is imported, so a function is named here and not imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class ScheduleChoice:
    """A choice of `--schedule`.

    Attributes:
      name: the flag's value.
      place: the function, as "<module>.<function>" in `loop.schedules`.
      flags: argument of the function -> the flag that gives it. Only these flags have a meaning
        beside the choice. An argument without a flag keeps its default.
      decay_rate: the default of `--decay_rate`, None if the schedule has none.
      ends: whether the schedule ends after `--decay_steps`, by default with the run; one that goes
        on and has `--decay_steps` needs it.
      warmup: whether `--warmup_steps` may precede it.
    """

    name: str
    place: str
    flags: Mapping[str, str]
    decay_rate: float | None = None
    ends: bool = False
    warmup: bool = True

    @property
    def needs_decay_steps(self) -> bool:
        """Whether `--decay_steps` must be given."""
        return "decay_steps" in self.flags.values() and not self.ends


_RATE = {"initial_learning_rate": "learning_rate"}
_DECAY = {**_RATE, "decay_steps": "decay_steps"}
_BY_RATE = {**_DECAY, "decay_rate": "decay_rate", "staircase": "staircase"}
_STEP = {**_RATE, "drop": "decay_rate", "every": "decay_steps"}
_COSINE = {**_DECAY, "alpha": "decay_alpha"}
_RESTARTS = {
    **_RATE,
    "first_decay_steps": "decay_steps",
    "t_mul": "t_mul",
    "m_mul": "m_mul",
    "alpha": "decay_alpha",
}
_POLYNOMIAL = {
    **_DECAY,
    "end_learning_rate": "end_learning_rate",
    "power": "power",
    "cycle": "cycle",
}
_ONE_CYCLE = {
    "peak": "learning_rate",
    "total_steps": "decay_steps",
    "warmup_fraction": "warmup_fraction",
    "initial_divisor": "initial_divisor",
    "final_divisor": "final_divisor",
}

# The default rates of natural_exp and inverse_time are of the exponent and of the divisor.
SCHEDULES = (
    ScheduleChoice("constant", "schedule.constant", {"value": "learning_rate"}),
    ScheduleChoice("exponential", "decay.exponential_decay", _BY_RATE, decay_rate=0.96),
    ScheduleChoice(
        "piecewise",
        "combine.piecewise_constant",
        {"boundaries": "boundaries", "values": "values"},
    ),
    ScheduleChoice("step", "decay.step_decay", _STEP, decay_rate=0.1),
    ScheduleChoice("cosine", "cosine.cosine_decay", _COSINE, ends=True),
    ScheduleChoice("natural_exp", "decay.natural_exp_decay", _BY_RATE, decay_rate=0.5),
    ScheduleChoice("inverse_time", "decay.inverse_time_decay", _BY_RATE, decay_rate=0.5),
    ScheduleChoice("polynomial", "decay.polynomial_decay", _POLYNOMIAL, ends=True),
    ScheduleChoice("cosine_restarts", "cosine.cosine_decay_restarts", _RESTARTS),
    ScheduleChoice(
        "linear_cosine",
        "cosine.linear_cosine_decay",
        {**_COSINE, "num_periods": "num_periods", "beta": "decay_beta"},
        ends=True,
    ),
    ScheduleChoice("one_cycle", "cosine.one_cycle", _ONE_CYCLE, ends=True, warmup=False),
)
BY_NAME = {choice.name: choice for choice in SCHEDULES}
WITH_WARMUP = tuple(choice.name for choice in SCHEDULES if choice.warmup)


def taking(flag: str) -> tuple[str, tuple[str, ...]]:
    """`Flag.only_with` of a flag that gives a schedule's argument."""
    return "schedule", tuple(c.name for c in SCHEDULES if flag in c.flags.values())
