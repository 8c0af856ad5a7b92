"""tapestep: a compiled training loop for TensorFlow.

The user writes what a step computes; the loop compiles many steps into one call, runs them on one
or several replicas, and makes the run exact to resume.
"""

import tapestep

tapestep.check("loop", "kernels")

from loop import (
    checkpoint,
    compile,
    distribute,
    feeds,
    keras_adapter,
    layers,
    metrics,
    optimizers,
    schedules,
    step_context,
)
from loop.actions import Every
from loop.best import BestCheckpoints
from loop.early_stopping import EarlyStopping
from loop.ema import WeightEMA
from loop.errors import NonFiniteError, WorkerFailedError, WorkerLostError
from loop.evaluation import Evaluation
from loop.export import export
from loop.global_step import GlobalStep
from loop.gradients import all_finite, reduce_gradients, reduce_sum
from loop.init_from import warm_start
from loop.learning_rate_finder import range_test
from loop.lookahead import Lookahead
from loop.loss_scale import LossScale
from loop.meter import Meter
from loop.module import Module
from loop.plateau import ReduceOnPlateau
from loop.precision import Precision
from loop.prediction import Prediction
from loop.profile import Profile
from loop.rows import Rows
from loop.run_directory import RunDirectory
from loop.signals import StopSignals
from loop.step import GradientStep
from loop.tensorboard import TensorBoard
from loop.trainer import Trainer

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
    "all_finite",
    "checkpoint",
    "compile",
    "distribute",
    "export",
    "feeds",
    "keras_adapter",
    "layers",
    "metrics",
    "optimizers",
    "range_test",
    "reduce_gradients",
    "reduce_sum",
    "schedules",
    "step_context",
    "warm_start",
]
