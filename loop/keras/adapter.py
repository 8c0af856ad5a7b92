"""The only file that knows Keras: its variables, layers, seed generators and optimizers.

Keras is looked up where one of its objects is met, not imported here: the loop needs none of it.
The first object met of a Keras that this file does not know raises `UnsupportedKerasError`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from kernels import random, target
from loop import handles, schedules
from loop.keras import version


def is_imported() -> bool:
    """Whether there is a Keras in this process that a step could use."""
    return "keras" in sys.modules


def is_variable(value: Any) -> bool:
    """Whether `value` is a Keras variable (never true before Keras was imported)."""
    keras = sys.modules.get("keras")
    # Keras 2 has no Variable; `check` names it where one of its layers is met.
    if keras is None or not isinstance(value, getattr(keras, "Variable", ())):
        return False
    version.check(keras)
    return True


def is_layer(value: Any) -> bool:
    """Whether `value` is a Keras layer or model."""
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(value, keras.layers.Layer):
        return False
    version.check(keras)
    return True


def holds_variables(value: Any) -> bool:
    """Whether `value` is a Keras metric or optimizer, whose `variables` are all its state."""
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(value, (keras.metrics.Metric, keras.optimizers.Optimizer)):
        return False
    version.check(keras)
    return True


def recurrent_states(layer: Any) -> dict[str, tf.Variable]:
    """The states of the stateful recurrent layers in a layer: name -> variable.

    Keras has them in no list of weights, and a step carries them from batch to batch.
    """
    states: dict[str, tf.Variable] = {}
    for inner in layer._flatten_layers():
        if getattr(inner, "stateful", False):
            for place, state in enumerate(tf.nest.flatten(getattr(inner, "states", None) or [])):
                states[f"{inner.path or inner.name}/states/{place}"] = state.value
    return states


def make_global_seed_generator() -> None:
    """Makes the generator that `keras.random` uses without a seed, if Keras was imported.

    Made inside a trace it would be a variable of that trace, which XLA refuses without its name.
    """
    if is_imported():
        from keras.src.random.seed_generator import global_seed_generator

        global_seed_generator()


def seed_generators(owner: Any) -> list[Any]:
    """The `keras.random.SeedGenerator`s of a layer or model and all that it contains."""
    return list(_seed_generators(owner))


def _seed_generators(layer: Any) -> Iterator[Any]:
    yield from getattr(layer, "_seed_generators", [])
    for inner in getattr(layer, "_layers", []):
        yield from _seed_generators(inner)


def refuse_unseeded_draws(error: Exception) -> None:
    """From now on `keras.random` without a seed raises `error` in this thread.

    Keras's global generator is one a thread. A replica is traced in a thread of its own, where a
    draw would make a new generator inside the trace, and TensorFlow's error does not name it.
    """
    from keras.src.backend.common import global_state
    from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR

    # Keras would otherwise put lines of its own around the message.
    error._keras_call_info_injected = True  # type: ignore[attr-defined]
    global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, _RefusingGenerator(error))


class _RefusingGenerator:
    """In place of Keras's global seed generator."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def next(self, **_: bool) -> Any:
        """Raises."""
        raise self._error


def seed_from_step(
    generators: list[Any], seed: tf.Tensor, global_step: tf.Tensor, position: tf.Tensor
) -> None:
    """Sets each generator's state from (seed, global step, position): a resume repeats its draws.

    `tf.train.Checkpoint` loses this state, and a state that is advanced by use could not tell step
    100 of a resumed run from step 100 of an uninterrupted one. To be called inside a step.

    Args:
      generators: from `seed_generators`; its place in the list distinguishes each.
      seed: int64 scalar.
      global_step: int64 scalar.
      position: int32 scalar, the first example's in the global batch, by which replicas draw other
        numbers. Keras draws a whole batch's together, so they depend on the number of replicas.
    """
    for place, generator in enumerate(generators):
        variable = generator.state.value
        drawn = random.bits(
            seed, f"keras.SeedGenerator/{place}", global_step, position[tf.newaxis], (2,)
        )
        # Keras's states are int64 on TensorFlow and uint32 elsewhere; a word fits both.
        handles.write(variable, tf.cast(drawn[0], variable.dtype))


class KerasOptimizer:
    """A Keras optimizer with the protocol of `loop.optimizers.Optimizer`.

    Gradients are applied as they come: Keras's own sum over replicas is left out, because the loop
    has reduced them. Keras's clipping arguments act inside the update, after the reduction.
    IndexedSlices become dense gradients first, duplicates summed (Keras's Adam squares repeated
    rows before it sums them).

    Args:
      optimizer: a `keras.optimizers.Optimizer`, built or not.
      learning_rate: a schedule or a function of the global step that replaces the optimizer's own;
        its variable `learning_rate` then follows. None keeps the optimizer's: a Keras schedule is
        read at the global step, a number from its variable.

    Raises:
      UnsupportedKerasError: on a version of Keras that this file was not read against.
      TypeError: if `optimizer` is no Keras optimizer, or one that wraps others.
      ValueError: if it accumulates gradients, scales the loss or overwrites weights by averages:
        the loop's own do that within the one order of an update.
    """

    def __init__(
        self,
        optimizer: Any,
        *,
        learning_rate: schedules.Schedule | Callable[[tf.Tensor], tf.Tensor] | float | None = None,
    ) -> None:
        import keras

        version.check(keras)
        wrappers = (keras.optimizers.LossScaleOptimizer,)
        if not isinstance(optimizer, keras.optimizers.Optimizer) or isinstance(optimizer, wrappers):
            raise TypeError(
                "KerasOptimizer: expected a keras.optimizers.Optimizer that wraps no other, got "
                f"{type(optimizer).__name__}"
            )
        for option in (
            "gradient_accumulation_steps",
            "loss_scale_factor",
            "ema_overwrite_frequency",
        ):
            if getattr(optimizer, option, None):
                raise ValueError(
                    f"KerasOptimizer: {type(optimizer).__name__} has {option}="
                    f"{getattr(optimizer, option)!r}; leave it out and use the loop's own"
                )
        self.optimizer = optimizer
        self._schedule = None if learning_rate is None else schedules.as_schedule(learning_rate)
        self._variables: list[Any] = []

    def build(self, variables: Sequence[Any]) -> None:
        """Creates the slots, once, before tracing; inside `strategy.scope()` if there is one.

        Args:
          variables: Keras variables in the order of the gradients.

        Raises:
          TypeError: if one is not a Keras variable.
          RuntimeError: inside a tf.function.
          ValueError: if the optimizer was built with others.
        """
        foreign = [variable for variable in variables if not is_variable(variable)]
        if foreign:
            raise TypeError(
                f"KerasOptimizer: {foreign[0].name!r} is a {type(foreign[0]).__name__}; Keras's "
                "optimizers take Keras variables, loop.optimizers take both"
            )
        if self._variables:
            if [id(variable) for variable in variables] == [id(own) for own in self._variables]:
                return
            raise ValueError(
                f"KerasOptimizer: was built with {len(self._variables)} variables and now got "
                f"{len(variables)} others; make one optimizer for each list of variables"
            )
        if tf.inside_function():
            raise RuntimeError(
                "KerasOptimizer: call build before the step is traced, not inside it"
            )
        if not self.optimizer.built:
            self.optimizer.build(list(variables))
        self.optimizer._check_variables_are_known(variables)
        self._variables = list(variables)

    @property
    def state(self) -> dict[str, tf.Variable]:
        """The optimizer's variables by path, its iteration and learning rate too."""
        if not self._variables:
            return {}
        return {variable.path: variable.value for variable in self.optimizer.variables}

    def is_frozen(self, name: str) -> bool:
        """False: what is not to be trained is left out of the variables, as in Keras."""
        del name
        return False

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
        import keras

        own = self.optimizer._learning_rate
        if self._schedule is not None:
            rate = self._schedule(global_step)
        elif isinstance(own, keras.optimizers.schedules.LearningRateSchedule):
            rate = own(global_step)
        elif is_variable(own):
            rate = handles.read(own.value)
        else:
            rate = own()
        return tf.cast(rate, tf.float32)

    def apply(
        self,
        gradients: Sequence[Any],
        *,
        global_step: tf.Tensor,
        finite: tf.Tensor | None = None,
    ) -> None:
        """One update; see `loop.optimizers.Optimizer.apply`.

        Keras's `iterations`, which its bias corrections use, counts the updates really applied.

        Args:
          gradients: one a variable, reduced and clipped; None does not change its variable.
          global_step: int64 scalar.
          finite: bool scalar; where False nothing changes.

        Raises:
          RuntimeError: before `build`.
          ValueError: on another number of gradients, or if all are None.
        """
        if not self._variables:
            raise RuntimeError("KerasOptimizer: has no slots yet; call build(variables) first")
        if len(gradients) != len(self._variables) or all(g is None for g in gradients):
            raise ValueError(
                f"KerasOptimizer: expected {len(self._variables)} gradients that are not all None, "
                f"got {len(gradients)}"
            )
        if finite is None or target.current().compiler == "xla":
            self._update(gradients, global_step, finite)
        else:
            tf.cond(finite, lambda: self._update(gradients, global_step, None), lambda: None)

    def _update(
        self, gradients: Sequence[Any], global_step: tf.Tensor, select: tf.Tensor | None
    ) -> None:
        import keras

        everything = [*self._variables, *self.optimizer.variables]
        old = {id(variable): handles.read(variable.value) for variable in everything}
        rate = self.learning_rate_at(global_step)
        values = dict(old)
        own_rate = self.optimizer._learning_rate
        if self._schedule is not None and is_variable(own_rate):
            values[id(own_rate)] = tf.cast(rate, own_rate.dtype)
        pairs = [
            (tf.convert_to_tensor(gradient), variable)
            for gradient, variable in zip(gradients, self._variables, strict=True)
            if gradient is not None
        ]
        optimizer = _stateless(self.optimizer, everything, rate)
        # Within the scope Keras reads and assigns tensors; nothing reaches a variable until below.
        with keras.StatelessScope([(v, values[id(v)]) for v in everything]) as scope:
            optimizer.apply(*zip(*pairs, strict=True))
        for variable in everything:
            new, kept = scope.get_current_value(variable), old[id(variable)]
            if new is kept:
                continue
            if select is not None:
                new = tf.where(select, new, kept)
            handles.write(variable.value, new)


def _stateless(optimizer: Any, variables: Sequence[Any], rate: tf.Tensor) -> Any:
    """The optimizer, sharing all it holds, without what the TensorFlow backend added to Keras's.

    The backend's optimizer sums gradients over replicas and assigns `tf.Variable`s; Keras's plain
    one, from which it inherits, assigns Keras variables, which a StatelessScope catches. A class
    put between the optimizer's own and the backend's gives the plain methods back, so a
    subclass's own methods stay and their `super()` finds these.
    """
    import keras

    backend = keras.optimizers.Optimizer.__bases__[0]
    plain = next(base for base in backend.__mro__ if base.__name__ == "BaseOptimizer")
    keys = {id(variable): optimizer._var_key(variable) for variable in variables}
    restored = {
        name: getattr(plain, name)
        for name in (
            "assign",
            "assign_add",
            "assign_sub",
            "_apply_weight_decay",
            "_backend_update_step",
        )
    }
    restored["_var_key"] = lambda _, variable: keys[id(variable)]
    restored["_get_current_learning_rate"] = lambda _: rate
    between = type("PlainOptimizer", (backend,), restored)
    local: Any = object.__new__(type(type(optimizer).__name__, (type(optimizer), between), {}))
    # Not by Keras's own __setattr__, which would track the dictionary as a new attribute.
    object.__setattr__(local, "__dict__", optimizer.__dict__)
    return local
