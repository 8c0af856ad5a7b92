"""The choice of compile mode for `compile="auto"`: by a rule, or measured on the real step.

What is measured runs on the run's own state, which is put back to the bit afterwards.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import tensorflow as tf

from kernels import target
from loop.checkpoint import copy_to_host, environment
from loop.compiled.compiled_loop import NEVER, CompiledLoop, Mode
from loop.compiled.regions import CollectiveInRegionError
from loop.compiled.uncompilable import UncompilableError
from loop.distribute import Replicas
from loop.variables import State

_log = logging.getLogger(__name__)

_ROUNDS = 3
_ROUND_SECONDS = 0.2
# A run this short is over before another compiler could pay for its compilation.
_SHORT_RUN_SECONDS = 20.0
# XLA compiles about this many operations a second on one core; a guess that only bounds the wait.
_OPERATIONS_A_SECOND = 500.0
_LONGEST_COMPILE_SECONDS = 60.0


class Choice:
    """Chooses the compile mode of a run.

    Args:
      make: gives the loop in a mode.
      asked: "xla", "graph", "eager" or "auto".
      state: what a step changes; measured candidates leave it as it was.
      replicas: where the steps run.
      measurable: whether batches may be fetched for a measurement; not from a feed that cannot be
        put back to a step.
      cache: a JSON file of earlier choices, by machine, versions, variables, batch and operations;
        the user's own (`default_cache`) if not given.
    """

    def __init__(
        self,
        make: Callable[[Mode], CompiledLoop],
        asked: Mode | Literal["auto"],
        *,
        state: State,
        replicas: Replicas,
        measurable: bool = True,
        cache: Path | None = None,
    ) -> None:
        self._make = make
        self._asked = asked
        self._state = state
        self._replicas = replicas
        self._measurable = measurable
        self._cache = cache if cache is not None else default_cache()

    def before_training(self, saved: Mode | None) -> Mode:
        """The mode for an evaluation while that of training is not chosen; chooses nothing.

        With "auto" the run's earlier choice, or else XLA on one GPU and the graph anywhere else.

        Args:
          saved: see `loop`.
        """
        if self._asked != "auto":
            return self._asked
        return saved or ("xla" if self._is_one_gpu() else "graph")

    def loop(self, *, steps: int | None, saved: Mode | None) -> CompiledLoop:
        """The loop in the asked mode; for "auto" in the chosen one, with one log line why.

        The run's own earlier choice first, so that a resume is exact. Then, on one CPU replica,
        what was measured fastest before on such a step, or is measured now if the run is long
        enough to pay for it. On a GPU XLA. On several replicas, where workers would have to agree
        on times, a rule: graph on CPUs, XLA on GPUs unless a collective is inside the forward pass.

        Args:
          steps: how many the run still has; None for many.
          saved: the mode in the metadata of the checkpoint it resumes from.
        """
        if self._asked != "auto":
            return self._make(self._asked)
        if saved is not None:
            return self._chosen(self._make(saved), "the run's choice so far")
        if self._is_one_gpu():
            return self._on_one_gpu()
        if self._replicas.count > 1:
            return self._on_replicas()
        graph = self._make("graph")
        key = self._key(graph)
        remembered = _read(self._cache).get(key)
        if remembered == "graph":
            return self._chosen(graph, "measured fastest before on such a step")
        if remembered == "xla":
            return self._chosen(self._make("xla"), "measured fastest before on such a step")
        if not self._measurable:
            return self._chosen(graph, "the feed cannot be put back after a measurement")
        return self._measured(graph, sys.maxsize if steps is None else steps, key)

    def _is_one_gpu(self) -> bool:
        return target.default_device() == "gpu" and self._replicas.count == 1

    def _chosen(self, loop: CompiledLoop, reason: str) -> CompiledLoop:
        _log.info("compile=auto: %s, %s", loop.mode, reason)
        return loop

    def _on_one_gpu(self) -> CompiledLoop:
        """XLA, unless it cannot compile the step."""
        xla = self._make("xla")
        if (refusal := _refusal(xla, xla.first_step())) is not None:
            return self._chosen(self._make("graph"), refusal)
        return self._chosen(xla, "one GPU")

    def _on_replicas(self) -> CompiledLoop:
        """Graph on CPU replicas; on GPUs XLA's regions, unless a collective is inside one."""
        if target.default_device() == "cpu":
            return self._chosen(self._make("graph"), "faster than XLA's regions on CPU replicas")
        xla = self._make("xla")
        try:
            xla.operations()
        except CollectiveInRegionError as error:
            return self._chosen(self._make("graph"), f"since {error}")
        return self._chosen(xla, "regions compiled between the collectives")

    def _measured(self, graph: CompiledLoop, steps: int, key: str) -> CompiledLoop:
        """Times graph, then XLA if that can pay, in turns; the state is as before."""
        compile_seconds = len(graph.operations()) / _OPERATIONS_A_SECOND
        start = graph.first_step()
        before = copy_to_host(self._state)
        try:
            loops = {"graph": graph}
            first = _seconds_per_step(graph, start, steps)
            rest = steps * first
            if rest < _SHORT_RUN_SECONDS:
                return self._chosen(graph, f"the run takes {rest:.2g} s, too short to compile for")
            if compile_seconds > min(_LONGEST_COMPILE_SECONDS, rest / 4):
                return self._chosen(graph, f"XLA would compile for some {compile_seconds:.3g} s")
            _log.info("compile=auto: measuring graph and XLA; these steps are not kept")
            xla = self._make("xla")
            if (refusal := _refusal(xla, start)) is not None:
                return self._chosen(graph, refusal)
            loops["xla"] = xla
            seconds: dict[str, list[float]] = {mode: [] for mode in loops}
            for _ in range(_ROUNDS):
                for mode, loop in loops.items():
                    seconds[mode].append(_seconds_per_step(loop, start, steps))
        finally:
            for name, value in before.items():
                self._state[name].assign(value)
        medians = {mode: statistics.median(times) for mode, times in seconds.items()}
        best = min(medians, key=lambda mode: medians[mode])
        others = [time for mode, times in seconds.items() if mode != best for time in times]
        # On a busy machine a round can go either way: such a choice is only for this run.
        if max(seconds[best]) < min(others):
            _remember(self._cache, key, best)
        shown = ", ".join(f"{m} {median * 1e3:.4g} ms" for m, median in medians.items())
        return self._chosen(loops[best], f"fastest of {shown} a step")

    def _key(self, loop: CompiledLoop) -> str:
        """What the choice depends on: machine, versions, variables, batch, operations of a step."""
        shapes = {n: [v.dtype.name, v.shape.as_list()] for n, v in self._state.items()}
        # The operations tell bfloat16 from float32, and an optimizer from another with its slots.
        operations = sorted(Counter(loop.operations()).items())
        told = json.dumps([environment(), shapes, loop.signature(), operations], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()


def _refusal(xla: CompiledLoop, start: int) -> str | None:
    """Why XLA cannot compile a step that graph mode can run; None where it can. Compiles it."""
    try:
        xla.run(xla.prepare(start, 1), 0)
    except UncompilableError as error:
        return f"since {error.reason}"
    except Exception as error:  # Tracing calls the user's step, which may raise anything.
        found = error.message if isinstance(error, tf.errors.OpError) else str(error)
        line = next(iter(str(found).splitlines()), "")
        return f"since XLA cannot compile the step ({type(error).__name__}: {line[:300]})"
    return None


def _seconds_per_step(loop: CompiledLoop, start: int, steps: int) -> float:
    """Seconds a step takes from the current state on; compiles first, apart.

    The batches are always those from `start` on, which a stream reads once. Fetches no more of them
    than the run has steps: a finite data set may have no others.
    """
    longest = max(1, min(loop.steps_per_call, steps))
    prepared = loop.prepare(start, 1 if steps else 0)
    loop.run(prepared, 0)
    count = 1
    while prepared.count:
        began = time.perf_counter()
        loop.run(prepared, prepared.count, max_nonfinite=NEVER)
        spent = time.perf_counter() - began
        ended = prepared.count < count
        if spent >= _ROUND_SECONDS or count == longest or ended:
            return spent / prepared.count
        count = min(longest, count * 4)
        prepared = loop.prepare(start, count)
    return 0.0


def default_cache() -> Path:
    """Where choices are kept: `tapestep/compile.json` in the user's cache directory."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "tapestep" / "compile.json"


def _read(cache: Path) -> Mapping[str, str]:
    try:
        found = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(cache: Path, key: str, mode: str) -> None:
    """Adds a choice; a cache that cannot be written costs the next start a measurement."""
    content = json.dumps({**_read(cache), key: mode}, indent=1)
    temporary = cache.with_suffix(f".{os.getpid()}")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(cache)
    except OSError as error:
        _log.warning("compile=auto: the choice is not kept in %s (%s)", cache, error.strerror)
