"""tapestep: a compiled training loop for TensorFlow.

The user writes what a step computes; the loop compiles many steps into one call, runs them on one
or several replicas, and makes the run exact to resume.
"""

import tapestep

tapestep.check("loop", "kernels")

from loop import (
    checkpoint,
    compiled,
    distribute,
    feeds,
    keras,
    layers,
    metrics,
    optimizers,
    schedules,
    step_context,
)
from loop.accumulation import accumulate
from loop.actions.best import BestCheckpoints
from loop.actions.early_stopping import EarlyStopping
from loop.actions.every import Every
from loop.actions.meter import Meter
from loop.actions.plateau import ReduceOnPlateau
from loop.actions.profile import Profile
from loop.analysis.range_test import range_test
from loop.averaging.ema import WeightEMA
from loop.averaging.lookahead import Lookahead
from loop.errors import NonFiniteError, WorkerFailedError, WorkerLostError
from loop.evaluation.evaluation import Evaluation
from loop.evaluation.export import export
from loop.evaluation.prediction import Prediction
from loop.evaluation.warm_start import warm_start
from loop.global_step import GlobalStep
from loop.gradients import (
    all_finite,
    clip_gradients,
    reduce_gradients,
    reduce_sum,
)
from loop.layers.module import Module
from loop.losses import mean_share
from loop.precision.loss_scale import LossScale, unscale_gradients
from loop.precision.policy import Precision
from loop.rows import Rows
from loop.run.directory import RunDirectory
from loop.run.signals import StopSignals
from loop.step import GradientStep
from loop.trainer import Trainer
from loop.writers.tensorboard import TensorBoard

# The names that these had in version 0.1.
keras_adapter = keras
autotune = compiled.auto
cluster = distribute.cluster

__all__ = [
    "BestCheckpoints",
    "EarlyStopping",
    "Evaluation",
    "Every",
    "GlobalStep",
    "GradientStep",
    "Lookahead",
    "LossScale",
    "Meter",
    "Module",
    "NonFiniteError",
    "Precision",
    "Prediction",
    "Profile",
    "ReduceOnPlateau",
    "Rows",
    "RunDirectory",
    "StopSignals",
    "TensorBoard",
    "Trainer",
    "WeightEMA",
    "WorkerFailedError",
    "WorkerLostError",
    "accumulate",
    "all_finite",
    "checkpoint",
    "clip_gradients",
    "compiled",
    "distribute",
    "export",
    "feeds",
    "keras",
    "keras_adapter",
    "layers",
    "mean_share",
    "metrics",
    "optimizers",
    "range_test",
    "reduce_gradients",
    "reduce_sum",
    "schedules",
    "step_context",
    "unscale_gradients",
    "warm_start",
]
