"""The choice of compile mode for `compile="auto"`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from kernels import target
from loop.compile import CollectiveInRegionError, CompiledLoop, Mode

_log = logging.getLogger(__name__)

_CONVOLUTIONS = {"Conv2D", "Conv3D", "DepthwiseConv2dNative"}


def choose(make: Callable[[Mode], CompiledLoop], mode: Mode | Literal["auto"]) -> CompiledLoop:
    """The loop in the asked mode, or for "auto" in the one that the rule gives.

    The rule: XLA, except on a CPU for a step with convolutions, which oneDNN runs in graph mode
    near the machine's peak and XLA:CPU does not. What was chosen is one log line.

    Args:
      make: gives the loop in a mode.
      mode: "xla", "graph", "eager" or "auto".
    """
    if mode != "auto":
        return make(mode)
    if target.default_device() == "gpu":
        _log.info("compile=auto: xla, the device is a GPU")
        return make("xla")
    loop = make("graph")
    convolutions = _CONVOLUTIONS & loop.operations()
    if convolutions:
        _log.info("compile=auto: graph, for oneDNN's %s on a CPU", ", ".join(sorted(convolutions)))
        return loop
    compiled = make("xla")
    try:
        compiled.operations()
    except CollectiveInRegionError as error:
        _log.info("compile=auto: graph, since %s", error)
        return loop
    _log.info("compile=auto: xla, the step has no convolution")
    return compiled
