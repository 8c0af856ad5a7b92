"""From settings to the parts of a training step: schedule, optimizer, clip."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import kernels
from experiments.flags import Settings
from loop import optimizers, schedules
from loop.optimizers import Optimizer
from loop.schedules import Schedule


def schedule(settings: Settings, total_steps: int) -> Schedule:
    """The learning rate's course; one that ends does so after `total_steps`."""
    left = settings.decay_steps or max(1, total_steps - settings.warmup_steps)
    rate = settings.learning_rate
    makers: dict[str, Callable[[], Schedule]] = {
        "constant": lambda: schedules.constant(rate),
        "exponential": lambda: schedules.exponential_decay(
            rate, left, _decay_rate(settings), settings.staircase
        ),
        "natural_exp": lambda: schedules.natural_exp_decay(
            rate, left, _decay_rate(settings), settings.staircase
        ),
        "inverse_time": lambda: schedules.inverse_time_decay(
            rate, left, _decay_rate(settings), settings.staircase
        ),
        "step": lambda: schedules.step_decay(rate, _decay_rate(settings), left),
        "piecewise": lambda: schedules.piecewise_constant(settings.boundaries, settings.values),
        "polynomial": lambda: schedules.polynomial_decay(
            rate, left, settings.end_learning_rate, settings.power, settings.cycle
        ),
        "cosine": lambda: schedules.cosine_decay(rate, left, settings.decay_alpha),
        "cosine_restarts": lambda: schedules.cosine_decay_restarts(
            rate, left, settings.t_mul, settings.m_mul, settings.decay_alpha
        ),
        "linear_cosine": lambda: schedules.linear_cosine_decay(
            rate, left, settings.num_periods, settings.decay_alpha, settings.decay_beta
        ),
        "one_cycle": lambda: schedules.one_cycle(
            rate,
            left,
            warmup_fraction=settings.warmup_fraction,
            initial_divisor=settings.initial_divisor,
            final_divisor=settings.final_divisor,
        ),
    }
    made = makers[settings.schedule]()
    return schedules.linear_warmup(made, settings.warmup_steps) if settings.warmup_steps else made


def _decay_rate(settings: Settings) -> float:
    if settings.decay_rate is None:  # the flags give each schedule that has one a default
        raise ValueError(f"schedule {settings.schedule!r} needs a decay rate, got none")
    return settings.decay_rate


def optimizer(settings: Settings, learning_rate: Schedule, *, output_kernel: str) -> Optimizer:
    """The update rule; weight decay reaches kernels alone.

    Args:
      settings: of the run; what they leave to the optimizer has its own default.
      learning_rate: its course.
      output_kernel: the name of the output layer's kernel, which Muon leaves to Adam.
    """
    momentum = settings.momentum
    makers: dict[str, Callable[..., Optimizer]] = {
        "sgd": optimizers.SGD,
        "momentum": functools.partial(optimizers.Momentum, momentum=momentum),
        "nesterov": functools.partial(optimizers.Momentum, momentum=momentum, nesterov=True),
        "adam": optimizers.Adam,
        "adamw": optimizers.AdamW,
        "adagrad": optimizers.Adagrad,
        "rmsprop": functools.partial(optimizers.RMSProp, momentum=momentum),
        "adadelta": optimizers.Adadelta,
        "nadam": optimizers.Nadam,
        "amsgrad": optimizers.AMSGrad,
        "lion": optimizers.Lion,
        "lamb": optimizers.LAMB,
        "lars": functools.partial(optimizers.LARS, momentum=momentum),
        "muon": functools.partial(
            optimizers.Muon, momentum=momentum, exclude=[f"^{re.escape(output_kernel)}$"]
        ),
    }
    options: dict[str, Any] = {
        "weight_decay": settings.weight_decay,
        "weight_decay_mask": lambda name: name.endswith("kernel"),
    }
    return makers[settings.optimizer](learning_rate, **options)


def clip(settings: Settings) -> Callable[..., kernels.Clipped] | None:
    """The gradient clip, or None."""
    if settings.clip == "none" or settings.clip_norm is None:
        return None
    makers: dict[str, Callable[[float], Callable[..., kernels.Clipped]]] = {
        "value": kernels.ClipByValue,
        "norm": kernels.ClipByNorm,
        "global_norm": kernels.ClipByGlobalNorm,
        "adaptive": kernels.AdaptiveClip,
    }
    return makers[settings.clip](settings.clip_norm)
