"""From settings to the parts of a training step: schedule, optimizer, clip."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

import kernels
from experiments.flags import Settings, optimizer_choices, schedule_choices
from loop.optimizers import Optimizer
from loop.schedules import Schedule, linear_warmup


def placed(package: str, place: str) -> Any:
    """What a choice names: `place` is "<module>.<name>" in `package`."""
    module, name = place.split(".")
    return getattr(importlib.import_module(f"{package}.{module}"), name)


def schedule(settings: Settings, total_steps: int) -> Schedule:
    """The learning rate's course; one that ends does so after `total_steps`."""
    left = settings.decay_steps or max(1, total_steps - settings.warmup_steps)
    choice = schedule_choices.BY_NAME[settings.schedule]
    arguments = {
        argument: left if flag == "decay_steps" else getattr(settings, flag)
        for argument, flag in choice.flags.items()
    }
    made: Schedule = placed("loop.schedules", choice.place)(**arguments)
    return linear_warmup(made, settings.warmup_steps) if settings.warmup_steps else made


def optimizer(settings: Settings, learning_rate: Schedule, *, output_kernel: str) -> Optimizer:
    """The update rule; weight decay reaches only kernels.

    Args:
      settings: of the run; what they leave to the optimizer has its own default.
      learning_rate: its course.
      output_kernel: the name of the output layer's kernel, which Muon leaves to Adam.
    """
    choice = optimizer_choices.BY_NAME[settings.optimizer]
    options: dict[str, Any] = {
        **choice.fixed,
        "weight_decay": settings.weight_decay,
        "weight_decay_mask": lambda name: name.endswith("kernel"),
    }
    if choice.momentum is not None:
        options["momentum"] = settings.momentum
    if choice.excludes_output:
        options["exclude"] = [f"^{re.escape(output_kernel)}$"]
    made: Optimizer = placed("loop.optimizers", choice.place)(learning_rate, **options)
    return made


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
