"""Many steps in one compiled call: the inner loop.

A call runs `count` steps, `count` a run-time number up to a fixed capacity, so that one trace
serves every chunk length. What a step reports is written into a table that the call returns. The
counter is advanced here and nowhere else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import tensorflow as tf

from kernels import target
from loop import statistics, step_context
from loop.compiled import uncompilable
from loop.compiled.purity import Declared
from loop.compiled.regions import graph_region, xla_region
from loop.compiled.traced import traced_method, weak_method
from loop.compiled.undo import Before
from loop.distribute import Replicas
from loop.feeds import Feed, FeedError, layout
from loop.feeds.feed import available
from loop.global_step import GlobalStep
from loop.gradients import reduce_sum
from loop.rows import CAPACITY, Rows, packed
from loop.step_context import MovingAverage, StepContext
from loop.user_code import called_for_values, without_inner_frames
from loop.variables import State, listed, name_of

_log = logging.getLogger(__name__)

Mode = Literal["eager", "graph", "xla"]
StepFunction = Callable[[dict[str, tf.Tensor]], Mapping[str, Any]]
StepHook = Callable[[StepContext], None]

NEVER = 2**31 - 1
"""As `max_nonfinite`: no number of non-finite steps ends a call."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a call reads, in place.

    Attributes:
      chunk: the feed's arrays as tensors, per replica; None where a feed that was opened at its end
        cannot tell their shapes.
      count: its steps: those asked for, or fewer where the input ends.
    """

    chunk: Any
    count: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a call did.

    Attributes:
      rows: one row a step that was run; the last is the offending one where `stopped`.
      stopped: whether more non-finite steps in a row came than allowed. The offending step is not
        counted: weights, statistics and counter are as before it.
      streak: non-finite steps in a row at the end of the call.
    """

    rows: Rows
    stopped: bool
    streak: int


class CompiledLoop:
    """Runs a step function many times a call.

    Args:
      step: batch -> dict of scalars; traced once. It need not know how many steps a call has. Two
        names have a meaning: `finite`, whether it updated; beside it `overflow`, that a step which
        did not is no fault: the loss scale moved. What a step wrote that does not report `finite`
        is put back where a scalar or a new value of its variables is not finite.
      feed: the source of batches.
      mode: "xla", "graph" or "eager". Under several replicas "xla" compiles forward + backward and
        the update of a `GradientStep` by themselves, with the collectives between them.
      steps_per_call: the capacity of a call.
      global_step: the counter.
      replicas: where the steps run.
      hooks: called with the context at the start of each step, traced (Keras's seeds).
      assigned: variables of the state that the forward pass itself assigns (statistics of Keras's
        layers). Of a step that is no `GradientStep`, which decides on them by itself, they are put
        back where it reports that it was not finite, and on several replicas averaged.
      declared: what a step may write and draw: its trace is checked against it, and what a step
        that is not finite wrote of it is put back. None for neither.

    Attributes:
      traces: how often the loop was traced; 1 after the first call, and it stays so.
      compiles_by_a_step: whether XLA compiles no earlier than at the first step (regions under
        replicas), so that a call of no steps is not enough.

    Raises:
      ValueError: on an unknown mode, steps_per_call below 1, or a batch that `step.accumulate` does
        not divide.
    """

    def __init__(
        self,
        step: StepFunction,
        feed: Feed,
        *,
        mode: Mode,
        steps_per_call: int,
        global_step: GlobalStep,
        replicas: Replicas,
        hooks: Sequence[StepHook] = (),
        assigned: Sequence[tf.Variable] = (),
        declared: Declared | None = None,
    ) -> None:
        if mode not in ("eager", "graph", "xla"):
            raise ValueError(f"compile: mode must be 'xla', 'graph' or 'eager', got {mode!r}")
        if steps_per_call < 1:
            raise ValueError(f"compile: steps_per_call must be at least 1, got {steps_per_call}")
        self.mode = mode
        self.steps_per_call = steps_per_call
        self.traces = 0
        self._step = step
        self._feed = feed
        self._global_step = global_step
        self._replicas = replicas
        self._hooks = hooks
        self._declared = declared
        self._state: State = {} if declared is None else declared.state
        ids = {id(variable) for variable in assigned}
        self._assigned = [name for name, v in self._state.items() if id(v) in ids]
        # A step that always reports `finite` puts back by itself what the forward pass assigned.
        self._reports_finite = getattr(step, "reports_finite", False)
        counter = global_step.variable
        self._steps_state = {n: v for n, v in self._state.items() if v is not counter}
        accumulate = getattr(step, "accumulate", 1)
        self._layouts = {
            replica: layout(
                feed.batch_size, replicas=replicas.count, replica=replica, accumulate=accumulate
            )
            for replica in replicas.local_ids
        }
        self._positions = replicas.per_replica(
            lambda replica: tf.constant(self._layouts[replica].positions)
        )
        self._resident = replicas.per_replica(lambda _: dict(feed.resident()))
        self._seed = tf.constant(feed.seed, tf.int64)
        self._columns: tuple[str, ...] = ()
        self._signature: dict[str, tuple[Any, Any]] = {}
        self._traced: Any = None
        self._numbers: tuple[tuple[int, int, int], tf.Tensor] | None = None
        # With one replica XLA takes the whole loop; with several, regions inside each step.
        self.compiles_by_a_step = mode == "xla" and replicas.count > 1
        whole = mode == "xla" and not self.compiles_by_a_step
        self._call: Any = (
            weak_method(self._steps)
            if mode == "eager"
            else traced_method(self._steps, jit_compile=whole or None)
        )

    def prepare(self, first_step: int, count: int) -> Prepared:
        """Fetches what a call of `count` steps from `first_step` needs, as tensors in place.

        Touches no state of the run: it may be called ahead, from another thread.
        """
        there = available(self._feed, first_step, count)
        try:
            chunk = self._replicas.per_replica(
                functools.partial(self._chunk, first_step=first_step, count=there)
            )
        except FeedError:
            if there or not count:
                raise
            chunk = None
        return Prepared(chunk, there)

    def _chunk(self, replica: int, *, first_step: int, count: int) -> dict[str, tf.Tensor]:
        chunk = self._feed.chunk(first_step, count, self.steps_per_call, self._layouts[replica])
        return {name: tf.constant(array) for name, array in chunk.items()}

    def run(
        self, prepared: Prepared, count: int, *, max_nonfinite: int = 0, streak: int = 0
    ) -> Outcome:
        """Runs `count` of the prepared steps, or all of them if these are fewer.

        Args:
          prepared: from `prepare` for the current step.
          count: at most `steps_per_call`; 0 compiles without running a step.
          max_nonfinite: non-finite steps in a row that are skipped; one more ends the call.
          streak: non-finite steps in a row before this call.

        Raises:
          ValueError: if count does not fit the capacity.
          RuntimeError: if an argument's shape or dtype differs from the first call's: it would be
            traced and compiled again.
          UncompilableError: XLA has no kernel for an operation of the step.
          ImpureStepError: at the first call, if the step writes or draws what is not declared.
          WorkerLostError: another worker is gone.
        """
        if not 0 <= count <= self.steps_per_call:
            raise ValueError(
                f"compile: count must be in [0, steps_per_call={self.steps_per_call}], got {count}"
            )
        self._guard(prepared.chunk)
        count = min(count, prepared.count)
        arguments = self._arguments(prepared.chunk, count, max_nonfinite, streak)
        if self._traced is None:
            self._traced = self._call
            if self.mode == "xla":
                for given in (self._resident, prepared.chunk):
                    uncompilable.refuse_strings(self._replicas.first(given))
            if self.mode == "eager":
                self._traced = functools.partial(without_inner_frames, self._call)
                self._check_eager(arguments)
            else:
                concrete = self._concrete(arguments)
                if self._replicas.strategy is None:
                    # The one trace there is: looking it up again costs 0.2 ms a call.
                    self._traced = concrete
        with self._replicas.naming_a_lost_worker(), uncompilable.in_one_line():
            table, numbers = self._traced(*arguments)
            first_step, done, streak = numbers.numpy().tolist()
        table = table.numpy()[:done, : len(self._columns)]
        return Outcome(Rows(first_step, self._columns, table), streak > max_nonfinite, streak)

    def operations(self) -> list[str]:
        """The type of every operation in the traced loop; traces it, runs nothing.

        Raises:
          ValueError: in eager mode, which has no graph.
        """
        if self.mode == "eager":
            raise ValueError("compile: eager mode has no graph to list the operations of")
        chunk = self.prepare(self.first_step(), 0).chunk
        graph = self._concrete(self._arguments(chunk, 0, 0, 0)).graph
        definition = graph.as_graph_def()
        nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
        return [node.op for node in nodes]

    def _concrete(self, arguments: tuple[Any, ...]) -> Any:
        """The traced loop, checked once."""
        concrete = without_inner_frames(self._call.get_concrete_function, *arguments)
        if self._declared is not None:
            self._declared.check(concrete)
            self._declared = None
        return concrete

    def _check_eager(self, arguments: tuple[Any, ...]) -> None:
        """Checks a step that runs operation by operation in a trace made only for this."""
        if self._declared is None:
            return
        try:
            concrete = traced_method(self._steps).get_concrete_function(*arguments)
        except Exception as error:  # Such a step is what eager mode is for.
            _log.warning(
                "compile=eager: what the step assigns and draws was not checked, since it cannot "
                "be traced (%s: %s)",
                type(error).__name__,
                str(error).partition("\n")[0],
            )
            return
        self._declared.check(concrete)

    def first_step(self) -> int:
        """The step that the next call starts at."""
        return int(self._global_step)

    def signature(self) -> list[str]:
        """The dtypes and shapes of what a call reads: one kind of step told from another."""
        inputs = (self._resident, self.prepare(self.first_step(), 0).chunk, self._positions)
        local = [self._replicas.first(one) for one in inputs]
        return [f"{leaf.dtype.name}{leaf.shape}" for leaf in tf.nest.flatten(local)]

    def _arguments(
        self, chunk: Any, count: int, max_nonfinite: int, streak: int
    ) -> tuple[Any, ...]:
        # One tensor, kept while it does not change: at one step a call a new one is felt.
        key = (count, max_nonfinite, streak)
        if self._numbers is None or self._numbers[0] != key:
            self._numbers = (key, tf.constant(key, tf.int32))
        return (chunk, self._numbers[1])

    def _guard(self, chunk: Any) -> None:
        """Refuses a call that would be traced anew, and names the argument that changed."""
        local = self._replicas.first(chunk)
        signature = {name: (array.dtype, array.shape) for name, array in local.items()}
        if not self._signature:
            self._signature = signature
        elif signature != self._signature:
            shown = [
                {name: f"{dtype.name}{shape}" for name, (dtype, shape) in one.items()}
                for one in (self._signature, signature)
            ]
            pairs = {
                name: (shown[0].get(name, "absent"), shown[1].get(name, "absent"))
                for name in {**self._signature, **signature}
            }
            changed = [f"{n} was {old}, is {new}" for n, (old, new) in pairs.items() if old != new]
            raise RuntimeError(
                f"compile: the call would be traced again, since {'; '.join(changed)}; a feed's "
                "chunks must keep their shapes and dtypes"
            )

    def _steps(self, chunk: Any, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The call: a loop over steps. Traced, unless in eager mode.

        What no call changes (resident data, positions, seed) the trace captures: as arguments they
        would be looked at again at each call.

        Args:
          chunk: from `prepare`, per replica.
          numbers: int32 [3]: steps to run, non-finite steps in a row allowed, and so far.

        Returns:
          The rows, float64 [steps_per_call, CAPACITY], and int64 [3]: the step before the first,
          the steps run, non-finite steps in a row at the end.
        """
        if self.mode != "eager":
            self.traces += 1
            if self.traces > 1:
                raise RuntimeError(
                    "compile: a second trace of one signature: the step made variables in its "
                    "first, expected none (a Keras model is built by calling it once on a batch, "
                    "an optimizer by build(variables)), or its closure has changed"
                )

        count, max_nonfinite, streak = tf.unstack(numbers)
        first_step = self._global_step.read()
        resident = self._resident
        if not tf.executing_eagerly():
            # So the inner graphs capture no data, only this one, which is taken apart at the end.
            resident = tf.nest.map_structure(tf.identity, resident, expand_composites=True)

        def body(
            row: tf.Tensor, streak: tf.Tensor, table: tf.TensorArray
        ) -> tuple[tf.Tensor, tf.Tensor, tf.TensorArray]:
            global_step = self._global_step.read()
            packed = self._replicas.first(
                self._replicas.run(
                    self._replica_step, resident, chunk, self._positions, global_step, row
                )
            )
            values, finite, overflow = packed
            streak = tf.where(finite, 0, tf.where(overflow, streak, streak + 1))
            self._global_step.advance(tf.cast(streak <= max_nonfinite, tf.int64))
            return row + 1, streak, table.write(row, values)

        table = tf.TensorArray(tf.float64, size=self.steps_per_call, element_shape=[CAPACITY])
        done, streak, table = tf.while_loop(
            lambda row, streak, _: (row < count) & (streak <= max_nonfinite),
            body,
            (tf.constant(0), streak, table),
            parallel_iterations=1,
        )
        outcome = tf.stack([first_step, tf.cast(done, tf.int64), tf.cast(streak, tf.int64)])
        return table.stack(), outcome

    def _replica_step(
        self,
        resident: dict[str, tf.Tensor],
        chunk: dict[str, tf.Tensor],
        positions: tf.Tensor,
        global_step: tf.Tensor,
        row: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """One step on one replica: batch, hooks, step; its row, finite?, overflow?"""
        replicas = self._replicas
        context = StepContext(
            seed=self._seed,
            global_step=global_step,
            positions=positions,
            mask=chunk["mask"][row] if "mask" in chunk else None,
            batch_size=self._feed.batch_size,
            replicas=replicas.count,
            all_reduce_sum=replicas.all_reduce_sum if replicas.count > 1 else None,
            state=self._steps_state,
        )
        if self.compiles_by_a_step:
            context.region = xla_region
        elif self.mode == "graph" and replicas.count == 1:
            context.region = graph_region
        traced_for: Mode = "graph" if self.compiles_by_a_step else self.mode
        with target.tracing_for(traced_for), step_context.within(context):
            for hook in self._hooks:
                hook(context)
            # In a region too: augmentation has another form under XLA, as on one replica.
            batch = context.region(self._feed.batch)(resident, chunk, row)
            before = Before.of({} if self._reports_finite else self._state)
            with _counted_regions(context) as regions:
                scalars = called_for_values(
                    "Trainer: the step", self._step, batch, takes="the batch"
                )
            self._columns, values = packed(scalars)
            moved = self._statistics(before, context)
            overflow = tf.constant(False)
            if "finite" in scalars:
                finite = tf.cast(scalars["finite"], tf.bool)
                overflow = tf.cast(scalars.get("overflow", overflow), tf.bool)
                if not self._reports_finite:
                    before.put_back(self._assigned, finite)
            else:
                means = [value for _, value, _ in moved]
                finite = before.put_back_unless_finite([values, *means], self._on_every_replica)
            for average, value, weight in moved:
                statistics.commit(average, value, weight, finite)
        if self.compiles_by_a_step and not regions:
            raise ValueError(
                "compile=xla: on several replicas XLA compiles the regions of a step between its "
                "collectives, and this step function has none: wrap what has no collective in "
                "`step_context.current(...).region(function)`, or use compile=graph"
            )
        return values, finite, overflow

    def _statistics(
        self, before: Before, context: StepContext
    ) -> list[tuple[MovingAverage, tf.Tensor, tf.Tensor]]:
        """What a step function left to be decided on: its statistics, with their sums and weights.

        A `GradientStep` leaves none. Any other leaves what layers of ours recorded, and on several
        replicas what Keras's assigned.

        Raises:
          ValueError: if a layer recorded inside a function, loop or branch of its own, out of which
            the value does not come.
        """
        averages = list(context.moving_averages)
        inside = [name_of(a.variable) for a in averages if not _is_here(a.value)]
        if inside:
            raise ValueError(
                f"Trainer: {listed(inside)} was recorded inside a region, loop or branch of the "
                "step, expected outside, where its value can be committed; call the layer in the "
                "step itself, or use a GradientStep"
            )
        if self._replicas.count > 1 and self._assigned and not self._reports_finite:
            own = {name: self._state[name] for name in self._assigned}
            averages += statistics.assigned_since(before.only(own), own, context)[0]
        sums = reduce_sum([part for parts in statistics.weighted(averages) for part in parts])
        return list(zip(averages, sums[: len(averages)], sums[len(averages) :], strict=True))

    def _on_every_replica(self, flag: tf.Tensor) -> tf.Tensor:
        """Whether a bool scalar is true on all replicas."""
        if self._replicas.count == 1:
            return flag
        false = tf.cast(tf.logical_not(flag), tf.float32)
        return tf.equal(self._replicas.all_reduce_sum([false])[0], 0.0)


def _is_here(tensor: tf.Tensor) -> bool:
    """Whether a tensor belongs to what is being traced."""
    return tf.executing_eagerly() or tensor.graph is tf.compat.v1.get_default_graph()


@contextlib.contextmanager
def _counted_regions(context: StepContext) -> Iterator[list[None]]:
    """Notes each use of the context's `region`, in a list that grows by one."""
    uses: list[None] = []
    region = context.region

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        uses.append(None)
        return region(function)

    context.region = counted
    yield uses
    context.region = region
