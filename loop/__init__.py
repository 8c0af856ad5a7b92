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
from loop.actions import Every  # noqa: E402
from loop.best import BestCheckpoints  # noqa: E402
from loop.early_stopping import EarlyStopping  # noqa: E402
from loop.ema import WeightEMA  # noqa: E402
from loop.errors import NonFiniteError, WorkerFailedError, WorkerLostError  # noqa: E402
from loop.evaluation import Evaluation  # noqa: E402
from loop.export import export  # noqa: E402
from loop.global_step import GlobalStep  # noqa: E402
from loop.gradients import all_finite, reduce_gradients, reduce_sum  # noqa: E402
from loop.init_from import warm_start  # noqa: E402
from loop.learning_rate_finder import range_test  # noqa: E402
from loop.lookahead import Lookahead  # noqa: E402
from loop.loss_scale import LossScale  # noqa: E402
from loop.meter import Meter  # noqa: E402
from loop.module import Module  # noqa: E402
from loop.plateau import ReduceOnPlateau  # noqa: E402
from loop.precision import Precision  # noqa: E402
from loop.prediction import Prediction  # noqa: E402
from loop.profile import Profile  # noqa: E402
from loop.rows import Rows  # noqa: E402
from loop.run_directory import RunDirectory  # noqa: E402
from loop.signals import StopSignals  # noqa: E402
from loop.step import GradientStep  # noqa: E402
from loop.tensorboard import TensorBoard  # noqa: E402
from loop.trainer import Trainer  # noqa: E402

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
