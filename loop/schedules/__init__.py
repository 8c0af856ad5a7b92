"""Schedules: a learning rate, or any value, as a pure function of the global step."""

from loop.schedules.combine import join, linear_warmup, piecewise_constant, with_scale
from loop.schedules.cosine import (
    cosine_decay,
    cosine_decay_restarts,
    linear_cosine_decay,
    one_cycle,
)
from loop.schedules.decay import (
    exponential_decay,
    inverse_time_decay,
    natural_exp_decay,
    polynomial_decay,
    step_decay,
)
from loop.schedules.schedule import Schedule, as_schedule, constant

__all__ = [
    "Schedule",
    "as_schedule",
    "constant",
    "cosine_decay",
    "cosine_decay_restarts",
    "exponential_decay",
    "inverse_time_decay",
    "join",
    "linear_cosine_decay",
    "linear_warmup",
    "natural_exp_decay",
    "one_cycle",
    "piecewise_constant",
    "polynomial_decay",
    "step_decay",
    "with_scale",
]
