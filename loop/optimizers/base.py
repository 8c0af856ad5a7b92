"""What every optimizer shares: its slots, and which variables are decayed, scaled or frozen.

A family's class says which slots a variable has and calls a pure rule of `kernels.updates`;
`loop.optimizers.update` reads the variables, applies the rule and writes back.
"""

from __future__ import annotations

import abc
import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import tensorflow as tf

from kernels import target
from kernels.updates import Keep
from loop import schedules
from loop.optimizers import checks
from loop.optimizers.trained import (
    Gradient,
    Scalars,
    Slots,
    Trained,
    compute_dtype,
    gradient_shape,
    resource,
)
from loop.optimizers.update import Skip, Update, can_idle
from loop.variables import name_of, variable_of

LearningRate = schedules.Schedule | Callable[[tf.Tensor], tf.Tensor] | float
Sparse = Literal["lazy", "exact"]


class Optimizer(abc.ABC):
    """Updates variables from gradients: `build(variables)` once, `apply(gradients, ...)` each step.

    Patterns are regular expressions searched for anywhere in a variable's name; one that matches
    no variable is refused by `build`.

    Args:
      learning_rate: a number, or a schedule: global step (int64 scalar) -> float32 scalar.
      weight_decay: decoupled: each update also takes `learning_rate * weight_decay * p` off p.
      weight_decay_mask: which variables decay: a function of the name, or a pattern. None: all.
      multipliers: pattern -> factor on the learning rate (and so on the decay) of the variables it
        matches; several that match multiply.
      frozen: patterns of variables that are left alone and get no slots.
      sparse: what an IndexedSlices gradient means. "lazy": only the rows in it are updated, and
        slots and decay of other rows stand still. "exact": as the dense gradient with zeros in the
        other rows, a pass over the whole variable. None: the family's default, which is what
        compat.v1 does.

    Raises:
      ValueError: on a number out of range, a bad pattern or an option the family lacks.
    """

    # compat.v1's meaning of a sparse gradient for the family; the classes say which they have.
    default_sparse: ClassVar[Sparse] = "lazy"
    allowed_sparse: ClassVar[tuple[Sparse, ...]] = ("lazy", "exact")
    # Whether the base takes the decay off the parameter; LARS and LAMB put it into the gradient.
    decoupled_decay: ClassVar[bool] = True
    # Whether `fused` exists.
    has_fused: bool = False
    # Values of scalars at which the rule, given a gradient of zeros, changes neither the parameter
    # nor a slot (but for the sign of a zero), whatever the other scalars; None if there are none.
    idle: Mapping[str, float] | None = None

    def __init__(
        self,
        learning_rate: LearningRate,
        *,
        weight_decay: float = 0.0,
        weight_decay_mask: Callable[[str], bool] | str | None = None,
        multipliers: Mapping[str, float] | None = None,
        frozen: Sequence[str] = (),
        sparse: Sparse | None = None,
    ) -> None:
        owner = type(self).__name__
        checks.number(owner, "weight_decay", weight_decay, low=0.0)
        if sparse is not None and sparse not in self.allowed_sparse:
            allowed = " or ".join(repr(mode) for mode in self.allowed_sparse)
            raise ValueError(f"{owner}: sparse must be {allowed}, got {sparse!r}")
        if isinstance(frozen, str):
            raise TypeError(f"{owner}: frozen must be a sequence of patterns, got {frozen!r}")
        self._schedule = schedules.as_schedule(learning_rate)
        self._weight_decay = float(weight_decay)
        self._decays = checks.predicate(owner, "weight_decay_mask", weight_decay_mask)
        self._multipliers = {
            checks.pattern(owner, "multipliers", pattern): factor
            for pattern, factor in (multipliers or {}).items()
        }
        for pattern, factor in self._multipliers.items():
            checks.number(owner, f"multipliers[{pattern.pattern!r}]", factor, low=0.0)
        self._frozen = [checks.pattern(owner, "frozen", pattern) for pattern in frozen]
        self.sparse: Sparse = sparse or self.default_sparse
        self._built: list[tf.Variable] | None = None
        self._trained: list[Trained | None] = []
        self._update_count: tf.Variable | None = None

    # What a family says of itself.

    @abc.abstractmethod
    def slots_for(self, name: str, shape: tf.TensorShape) -> Mapping[str, float]:
        """The slots of a variable: name -> initial value of all its elements."""

    @abc.abstractmethod
    def scalars(self, learning_rate: tf.Tensor, count: tf.Tensor, dtype: tf.DType) -> Scalars:
        """What the rule needs besides tensors, computed once an update in float64.

        Args:
          learning_rate: float64 scalar, with the variable's multiplier.
          count: float64 scalar: this update's number, from 1.
          dtype: what the rule computes in, to which the scalars are then rounded.
        """

    @abc.abstractmethod
    def rule(
        self,
        trained: Trained,
        parameter: tf.Tensor,
        gradient: tf.Tensor,
        slots: Slots,
        scalars: Scalars,
        keep: Keep,
    ) -> tuple[tf.Tensor, Slots]:
        """The new parameter and slots; all tensors of one shape (or the same rows of it).

        Every new slot goes through `keep(new, old)` before anything is formed from it.
        """

    def fused(
        self,
        handle: tf.Tensor,
        slots: Mapping[str, tf.Tensor],
        gradient: tf.Tensor,
        scalars: Scalars,
    ) -> None:
        """The rule as TensorFlow's fused operation, for families with `has_fused`.

        Called for dense gradients outside XLA, where each plain operation is a pass over memory.

        Args:
          handle: the variable's resource.
          slots: its slots' resources.
          gradient: of the variable's dtype, float32 or float64.
          scalars: of the variable's dtype.
        """
        raise NotImplementedError

    def sparse_for(self, trained: Trained) -> Sparse:
        """What an IndexedSlices gradient of this variable means.

        Raises:
          ValueError: if the rule has no meaning for one.
        """
        del trained
        return self.sparse

    # What the loop calls.

    def build(self, variables: Sequence[Any]) -> None:
        """Creates the slots, zero or as the family says; once, before anything is traced.

        Under a tf.distribute strategy call it inside `strategy.scope()`.

        Args:
          variables: tf.Variable or Keras variables of a float dtype, in the order of the gradients.

        Raises:
          RuntimeError: inside a tf.function.
          ValueError: if two variables share a name, a pattern matches none of them, all are frozen,
            or the optimizer was built with others.
          TypeError: if a variable's dtype is not a real float.
        """
        owner = type(self).__name__
        plain = [variable_of(variable) for variable in variables]
        if self._built is not None:
            if len(plain) == len(self._built) and all(
                mine is other for mine, other in zip(self._built, plain, strict=True)
            ):
                return
            raise ValueError(
                f"{owner}: was built with {len(self._built)} variables and now got {len(plain)} "
                "others; make one optimizer for each list of variables"
            )
        if tf.inside_function():
            raise RuntimeError(
                f"{owner}: build was called inside a tf.function, where a slot would be created at "
                "every trace; call it before the step is traced"
            )
        names = [name_of(variable) for variable in variables]
        self._check_names(names)
        self._trained = [
            self._train(name, variable) for name, variable in zip(names, plain, strict=True)
        ]
        self._update_count = tf.Variable(
            tf.zeros([], tf.int64), trainable=False, name="update_count"
        )
        self._built = plain

    @property
    def state(self) -> dict[str, tf.Variable]:
        """What to remember: "<variable name>/<slot>" and "update_count"; nothing before `build`."""
        if self._built is None:
            return {}
        state = {
            f"{trained.name}/{slot}": variable
            for trained in self._trained
            if trained is not None
            for slot, variable in trained.slots.items()
        }
        state["update_count"] = self._update_count
        return state

    def is_frozen(self, name: str) -> bool:
        """Whether the variable of this name is left alone."""
        return any(pattern.search(name) for pattern in self._frozen)

    @contextlib.contextmanager
    def scheduled(self, schedule: schedules.Schedule) -> Iterator[None]:
        """Inside the `with` block updates are traced with another learning rate."""
        own, self._schedule = self._schedule, schedule
        try:
            yield
        finally:
            self._schedule = own

    def learning_rate_at(self, global_step: tf.Tensor) -> tf.Tensor:
        """The learning rate of the update that starts at `global_step`, a float32 scalar."""
        return tf.cast(self._rate(global_step), tf.float32)

    def apply(
        self,
        gradients: Sequence[Gradient],
        *,
        global_step: tf.Tensor,
        finite: tf.Tensor | None = None,
    ) -> None:
        """One update, in eager mode, a graph or XLA, on one device or inside `strategy.run`.

        The learning rate is the schedule's at `global_step`. Bias corrections count the updates
        really applied (`update_count`): an optimizer used every other step of a GAN, or whose
        updates were skipped, is corrected for the updates it made, not for the time that passed.

        Args:
          gradients: one a variable, in the order of `build`, already reduced over replicas and
            clipped; IndexedSlices may repeat rows; None leaves its variable and slots alone. A
            frozen variable's is not looked at: a step of one's own need not compute it.
          global_step: int64 scalar.
          finite: bool scalar; where False nothing changes, neither weights, slots nor the count.

        Raises:
          RuntimeError: before `build`.
          ValueError: on another number of gradients, another shape, or if all are None (but for
            those of frozen variables).
        """
        pairs = self._pairs(gradients)
        # Handles are resolved here: inside a branch there may be no replica context.
        handles = [resource(trained.variable) for trained, _ in pairs]
        slot_handles = [
            {slot: resource(variable) for slot, variable in trained.slots.items()}
            for trained, _ in pairs
        ]
        count = resource(self._update_count)

        def update(skip: Skip | None) -> None:
            Update(self, self._rate(global_step), count, skip).run(pairs, handles, slot_handles)

        if finite is None:
            update(None)
        elif target.current().compiler == "xla":
            # A select is fused into the update; a branch would keep XLA from fusing across it.
            update(Skip(finite, "select"))
        elif target.current().compiler == "graph" and can_idle(self, pairs):
            update(Skip(finite, "idle"))
        else:
            tf.cond(finite, lambda: update(None), lambda: None)

    def _rate(self, global_step: tf.Tensor) -> tf.Tensor:
        """The learning rate in float64."""
        return self._schedule.rate(global_step)

    def _train(self, name: str, variable: tf.Variable) -> Trained | None:
        if not variable.dtype.is_floating:
            raise TypeError(
                f"{type(self).__name__}: {name!r} must be of a float dtype, got {variable.dtype!r}"
            )
        if self.is_frozen(name):
            return None
        strategy = getattr(variable, "distribute_strategy", None)
        if isinstance(variable, tf.distribute.DistributedValues) and (
            strategy is not tf.distribute.get_strategy()
        ):
            raise ValueError(
                f"{type(self).__name__}: {name!r} lives on several replicas but build was called "
                "outside their strategy; call it inside `with strategy.scope():`"
            )
        dtype = compute_dtype(variable.dtype)
        slots = {
            slot: tf.Variable(
                tf.fill(variable.shape, tf.constant(value, dtype)),
                trainable=False,
                name=f"{name}/{slot}",
            )
            for slot, value in self.slots_for(name, variable.shape).items()
        }
        multiplier = math.prod(
            factor for pattern, factor in self._multipliers.items() if pattern.search(name)
        )
        decay = self._weight_decay if self._decays(name) else 0.0
        return Trained(name, variable, slots, multiplier, decay, dtype)

    def _check_names(self, names: Sequence[str]) -> None:
        owner = type(self).__name__
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"{owner}: {len(twice)} names are shared by several variables, the first "
                f"{twice[0]!r}; name them apart, since slots are stored by name"
            )
        for option, patterns in (("frozen", self._frozen), ("multipliers", [*self._multipliers])):
            for pattern in patterns:
                if not any(pattern.search(name) for name in names):
                    raise ValueError(
                        f"{owner}: {option} pattern {pattern.pattern!r} matches none of the "
                        f"{len(names)} variables, such as {names[:3]}"
                    )
        if names and all(self.is_frozen(name) for name in names):
            raise ValueError(f"{owner}: all {len(names)} variables are frozen; nothing to train")

    def _check_built(self) -> None:
        if self._built is None:
            raise RuntimeError(
                f"{type(self).__name__}: has no slots yet; call build(variables) before tracing"
            )

    def _pairs(self, gradients: Sequence[Gradient]) -> list[tuple[Trained, Gradient]]:
        """The variables to update with their gradients."""
        self._check_built()
        owner = type(self).__name__
        if len(gradients) != len(self._trained):
            raise ValueError(
                f"{owner}: got {len(gradients)} gradients for {len(self._trained)} variables; pass "
                "one (or None) for each variable given to build, in that order"
            )
        pairs = []
        for trained, gradient in zip(self._trained, gradients, strict=True):
            if trained is None or gradient is None:
                continue
            expected, found = trained.variable.shape, gradient_shape(gradient, trained)
            if not found.is_compatible_with(expected):
                raise ValueError(
                    f"{owner}: the gradient of {trained.name!r} has shape {found}, expected "
                    f"{expected}"
                )
            pairs.append((trained, gradient))
        if not pairs:
            count = sum(trained is not None for trained in self._trained)
            raise ValueError(
                f"{owner}: all {count} gradients are None; the loss depends on none of the "
                "variables that are not frozen"
            )
        return pairs
