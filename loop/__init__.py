"""tapestep: a compiled training loop for TensorFlow.

The user writes what a step computes; the loop compiles many steps into one call, runs them on one
or several replicas, and makes the run exact to resume.
"""

from importlib.util import find_spec as _find_spec
from pathlib import Path as _Path

_found = _find_spec("kernels")
if _found is None or not (_Path(str(_found.origin)).parent / "target.py").exists():
    raise ImportError(
        "loop: expected tapestep's own package `kernels`, found "
        f"{'none' if _found is None else _found.origin}; another distribution of that name comes "
        "first on the path: use an environment of its own, or run from the checkout"
    )

from loop import (  # noqa: E402
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
from loop.actions.best import BestCheckpoints  # noqa: E402
from loop.actions.early_stopping import EarlyStopping  # noqa: E402
from loop.actions.every import Every  # noqa: E402
from loop.actions.meter import Meter  # noqa: E402
from loop.actions.plateau import ReduceOnPlateau  # noqa: E402
from loop.actions.profile import Profile  # noqa: E402
from loop.analysis.range_test import range_test  # noqa: E402
from loop.averaging.ema import WeightEMA  # noqa: E402
from loop.averaging.lookahead import Lookahead  # noqa: E402
from loop.errors import NonFiniteError, WorkerLostError  # noqa: E402
from loop.evaluation.evaluation import Evaluation  # noqa: E402
from loop.evaluation.export import export  # noqa: E402
from loop.evaluation.prediction import Prediction  # noqa: E402
from loop.evaluation.warm_start import warm_start  # noqa: E402
from loop.global_step import GlobalStep  # noqa: E402
from loop.gradients import all_finite, reduce_gradients, reduce_sum  # noqa: E402
from loop.layers.module import Module  # noqa: E402
from loop.precision.loss_scale import LossScale  # noqa: E402
from loop.precision.policy import Precision  # noqa: E402
from loop.rows import Rows  # noqa: E402
from loop.run.directory import RunDirectory  # noqa: E402
from loop.run.signals import StopSignals  # noqa: E402
from loop.step import GradientStep  # noqa: E402
from loop.trainer import Trainer  # noqa: E402
from loop.writers.tensorboard import TensorBoard  # noqa: E402

keras_adapter = keras  # The name of `loop.keras` in version 0.1.

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
    "WorkerLostError",
    "all_finite",
    "checkpoint",
    "compiled",
    "distribute",
    "export",
    "feeds",
    "keras",
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
