"""Training on two virtual CPUs at the same global batch, and ours on one: a race of whole steps."""

from __future__ import annotations

from experiments.benchmark import workloads
from experiments.benchmark.measurement import Measurement
from experiments.benchmark.measurements import steps

MEASUREMENT = Measurement(
    steps.run,
    workloads=tuple(workloads.WORKLOADS),
    default=("mlp", "cnn"),
    contenders=(steps.OURS_MIRRORED, steps.OURS, "keras_mirrored", "orbit_mirrored"),
)
