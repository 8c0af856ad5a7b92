"""What every optimizer shares: its slots, and which variables are decayed, scaled or frozen.

A family's class describes its rule (`loop.optimizers.rule`); `loop.optimizers.update` reads the
variables, applies the rule and writes back.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import tensorflow as tf

from kernels import target
from loop import schedules
from loop.optimizers import checks
from loop.optimizers.rule import Rule
from loop.optimizers.trained import Gradient, Trained, compute_dtype, gradient_shape, resource
from loop.optimizers.update import Skip, Update, can_idle
from loop.variables import name_of, variable_of

LearningRate = schedules.Schedule | Callable[[tf.Tensor], tf.Tensor] | float
Sparse = Literal["lazy", "exact"]


class Optimizer:
    """Updates variables from gradients: `build(variables)` once, `apply(gradients, ...)` each step.

    Patterns are regular expressions searched for anywhere in a variable's name; one that matches
    no variable is refused by `build`.

    Args:
      learning_rate: a number, or a schedule: global step (int64 scalar) -> float32 scalar.
      rule: the family's own; users of a family do not give it.
      weight_decay: decoupled: each update also takes `learning_rate * weight_decay * p` off p.
      weight_decay_mask: which variables decay: a function of the name, or a pattern. None: all.
      multipliers: pattern -> factor on the learning rate (and so on the decay) of the variables it
        matches; several that match multiply.
      frozen: patterns of variables that are not updated and get no slots.
      sparse: what an IndexedSlices gradient means. "lazy": only the rows in it are updated; other
        rows keep their slots and do not decay. "exact": as the dense gradient with zeros in the
        other rows, a pass over the whole variable. None: the family's default, which is what
        compat.v1 does.

    Raises:
      ValueError: on a number out of range, a bad pattern or an option the family lacks.
    """

    # The meanings of a sparse gradient that the family has; the first is its default.
    sparse_forms: ClassVar[tuple[Sparse, ...]] = ("lazy", "exact")

    def __init__(
        self,
        learning_rate: LearningRate,
        rule: Rule,
        *,
        weight_decay: float = 0.0,
        weight_decay_mask: Callable[[str], bool] | str | None = None,
        multipliers: Mapping[str, float] | None = None,
        frozen: Sequence[str] = (),
        sparse: Sparse | None = None,
    ) -> None:
        owner = type(self).__name__
        checks.number(owner, "weight_decay", weight_decay, low=0.0)
        if sparse is not None and sparse not in self.sparse_forms:
            allowed = " or ".join(repr(form) for form in self.sparse_forms)
            raise ValueError(f"{owner}: sparse must be {allowed}, got {sparse!r}")
        if isinstance(frozen, str):
            raise TypeError(f"{owner}: frozen must be a sequence of patterns, got {frozen!r}")
        self._schedule = schedules.as_schedule(learning_rate)
        self._rule = rule
        self._weight_decay = float(weight_decay)
        self._decays = checks.predicate(owner, "weight_decay_mask", weight_decay_mask)
        self._multipliers = {
            checks.pattern(owner, "multipliers", pattern): factor
            for pattern, factor in (multipliers or {}).items()
        }
        for pattern, factor in self._multipliers.items():
            checks.number(owner, f"multipliers[{pattern.pattern!r}]", factor, low=0.0)
        self._frozen = [checks.pattern(owner, "frozen", pattern) for pattern in frozen]
        self.sparse: Sparse = sparse or self.sparse_forms[0]
        self._built: list[tf.Variable] | None = None
        self._trained: list[Trained | None] = []
        self._update_count: tf.Variable | None = None

    def rule_for(self, name: str, shape: tf.TensorShape, weight_decay: float) -> Rule:
        """The rule of one variable; a family whose variables differ in it overrides this.

        Args:
          name: of the variable.
          shape: of the variable.
          weight_decay: 0 if masked out.
        """
        del name, shape, weight_decay
        return self._rule

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
            for slot, variable in zip(trained.rule.slots, trained.slots, strict=True)
        }
        state["update_count"] = self._update_count
        return state

    def is_frozen(self, name: str) -> bool:
        """Whether the variable of this name is not updated."""
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
            clipped; IndexedSlices may repeat rows; None leaves its variable and slots as is. A
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
        slot_handles = [[resource(slot) for slot in trained.slots] for trained, _ in pairs]
        count = resource(self._update_count)

        def update(skip: Skip | None) -> None:
            Update(self._rate(global_step), count, skip).run(pairs, handles, slot_handles)

        if finite is None:
            update(None)
        elif target.current().compiler == "xla":
            # A select is fused into the update; a branch would keep XLA from fusing across it.
            update(Skip(finite, "select"))
        elif target.current().compiler == "graph" and can_idle(pairs):
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
        multiplier = math.prod(
            factor for pattern, factor in self._multipliers.items() if pattern.search(name)
        )
        decay = self._weight_decay if self._decays(name) else 0.0
        rule = self.rule_for(name, variable.shape, decay)
        slots = tuple(
            tf.Variable(
                tf.fill(variable.shape, tf.constant(value, dtype)),
                trainable=False,
                name=f"{name}/{slot}",
            )
            for slot, value in rule.slots.items()
        )
        return Trained(
            name,
            variable,
            rule,
            slots,
            multiplier,
            decay if rule.decoupled_decay else 0.0,
            self.sparse == "exact",
            dtype,
        )

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
            if isinstance(gradient, tf.IndexedSlices) and trained.rule.no_rows is not None:
                reason = trained.rule.no_rows
                raise ValueError(
                    f"{owner}: the gradient of {trained.name!r} is sparse, but {reason}"
                )
            pairs.append((trained, gradient))
        if not pairs:
            count = sum(trained is not None for trained in self._trained)
            raise ValueError(
                f"{owner}: all {count} gradients are None; the loss depends on none of the "
                "variables that are not frozen"
            )
        return pairs
