"""The contenders by name: what builds each, in which environment, and how near its losses must be.

Imports nothing, so that the referee and every environment can read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

# First losses further apart than this mean that two contenders do not compute the same thing; it
# leaves room for float32 sums in another order.
LOSS_TOLERANCE = 2e-3
# optax and PyTorch add Adam's epsilon to the corrected root. This moves their third loss on
# `mlp` by 5e-3 from TensorFlow's (PyTorch with TensorFlow's epsilon at step 1,
# 1e-7 / sqrt(1 - beta2), has TensorFlow's loss).
EPSILON_TOLERANCE = 8e-3
# bfloat16 has 8 bits: a rounding is 4e-3, and the logits' and the losses' partly cancel.
BFLOAT16_TOLERANCE = 3e-2


class Entry(NamedTuple):
    """A contender."""

    # of this package; its class `Contender` takes the workload, the steps a call and the settings
    module: str
    settings: Mapping[str, Any] = {}  # by name
    environment: str = ""  # the one of .venv-contenders that it runs in; "" for our own
    # how far its first losses may be from the others', relatively
    tolerance: float = LOSS_TOLERANCE
    workloads: tuple[str, ...] = ()  # the only ones that it takes part in; empty for all


CONTENDERS: dict[str, Entry] = {
    "tapestep": Entry("tapestep"),
    "tapestep_lazy": Entry("tapestep", {"sparse": "lazy"}, workloads=("embedding",)),
    "tapestep_bf16": Entry(
        "tapestep",
        {"precision": "mixed_bfloat16"},
        tolerance=BFLOAT16_TOLERANCE,
        workloads=("mlp", "cnn", "resnet20"),  # whose inputs are floating
    ),
    "tapestep_graph": Entry("tapestep", {"compile": "graph", "as_told": True}),
    "tapestep_xla": Entry("tapestep", {"compile": "xla", "as_told": True}),
    "tapestep_resident": Entry("tapestep_fed", {"feed": "resident"}),
    "tapestep_records": Entry("tapestep_fed", {"feed": "records"}),
    "tapestep_mirrored": Entry("tapestep_mirrored"),
    "keras_default": Entry("keras_fit"),
    "keras_best": Entry("keras_fit", {"search": True}),
    "keras_mirrored": Entry("keras_fit", {"mirrored": True}),
    "plain_graph": Entry("plain_graph"),
    "orbit_graph": Entry("orbit_loop", environment="orbit"),
    "orbit_xla": Entry("orbit_loop", {"jit_compile": True}, "orbit"),
    "orbit_mirrored": Entry("orbit_loop", {"mirrored": True}, "orbit"),
    "jax_step": Entry("jax_loop", {"scan": False}, "jax", EPSILON_TOLERANCE),
    "jax_scan": Entry("jax_loop", {"scan": True}, "jax", EPSILON_TOLERANCE),
    "torch_eager": Entry("torch_loop", {"compile": False}, "torch", EPSILON_TOLERANCE),
    "torch_compile": Entry("torch_loop", {"compile": True}, "torch", EPSILON_TOLERANCE),
    "bare": Entry("bare"),
    "floor": Entry("floor"),
}
