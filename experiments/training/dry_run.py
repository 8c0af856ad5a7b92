"""What a run would be, without training a step: `python -m experiments.train --dry_run ...`."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

import loop
from experiments.entry.significant import significant
from experiments.entry.summary import summary
from experiments.flags import Settings
from experiments.training.parts import Parts
from kernels import target
from loop.analysis import flops


def show(settings: Settings, made: Parts, total_steps: int) -> dict[str, str]:
    """Prints parameters, operations, memory and what will be compiled; changes nothing.

    Args:
      settings: of the run.
      made: the parts of its trainer.
      total_steps: how long it would be.

    Returns:
      What was printed, label -> text.
    """
    trainer = made.trainer(compile=settings.compile, steps_per_call=settings.steps_per_call or None)
    step, feed = made.step, made.feed
    operations = flops.of_step(step, feed)
    resident = sum(_bytes(tensor) for tensor in feed.resident().values())
    epochs = significant(total_steps * feed.batch_size / feed.size, 3)
    lines = {
        "parameters": f"{sum(math.prod(v.shape) for v in step.variables):,}",
        "FLOPs a step": f"{operations:,} in matrix products and convolutions",
        "state": f"{_size(sum(map(_bytes, trainer.state.values())))} in "
        f"{len(trainer.state)} variables",
        "resident data": _size(resident),
        "steps": f"{total_steps:,}, {epochs} epochs",
        "FLOPs in all": f"{operations * total_steps:.3g}",
        "replicas": trainer.replicas.description,
        "precision": settings.precision,
        "compile": _compile(settings, trainer),
    }
    summary(lines, "dry run: nothing was trained or written")
    return lines


def _bytes(value: Any) -> int:
    return int(math.prod(value.shape) * tf.as_dtype(value.dtype).size)


def _size(count: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024  # type: ignore[assignment]
    return f"{count:.4g} GiB"


def _compile(settings: Settings, trainer: loop.Trainer) -> str:
    """What would be compiled, without compiling it."""
    calls = f"one call for up to {trainer.steps_per_call} steps"
    several = trainer.replicas.count > 1
    texts = {
        "eager": "nothing: eager",
        "graph": f"a graph, {calls}",
        "xla": f"forward, backward and update by XLA, in a graph, {calls}"
        if several
        else f"by XLA, {calls}",
    }
    if settings.compile != "auto":
        return texts[settings.compile]
    if target.default_device() == "gpu" and not several:
        return f"auto: {texts['xla']}, on the GPU"
    how = "by a rule" if several else "by a remembered choice, or timed on the first steps"
    return f"auto: graph or XLA, {how}; {calls}"
