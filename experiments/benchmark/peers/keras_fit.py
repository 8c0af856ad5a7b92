"""Keras's own loop: `model.fit`, as it comes or at the best setting of its two speed options."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import keras

from experiments.benchmark import workloads
from experiments.benchmark.peers import keras_models


class _Clock(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Times training alone, without the making of fit's iterator and callbacks."""

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.seconds = time.perf_counter() - self.started


class Fit:
    """A compiled Keras model, trained by `fit`."""

    def __init__(
        self, workload: workloads.Workload, *, strategy: Any = None, **settings: Any
    ) -> None:
        self.note = ", ".join(f"{key}={value}" for key, value in settings.items())
        self._data = keras_models.dataset(workload)
        with strategy.scope() if strategy else contextlib.nullcontext():
            self._model = keras_models.build(keras, workload)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            optimizer = keras_models.optimizer(keras, clip=True)
            self._model.compile(optimizer=optimizer, loss=loss, **settings)

    def first_losses(self, count: int) -> list[float]:
        """Each of the first steps' losses, one batch a `fit`."""
        losses = []
        for i in range(count):
            history = self._model.fit(self._data.skip(i).take(1), verbose=0)
            losses.append(float(history.history["loss"][0]))
        return losses

    def run(self, steps: int) -> float:
        """One epoch of `steps` steps."""
        clock = _Clock()
        self._model.fit(self._data, steps_per_epoch=steps, verbose=0, callbacks=[clock])
        return clock.seconds


def mirrored(workload: workloads.Workload, _: int) -> Fit:
    """`fit` on two virtual CPUs under MirroredStrategy.

    One step an execution: with more, Keras 3.15 fails there ("You must feed a value for placeholder
    tensor"), also without a check of the losses.
    """
    return Fit(workload, strategy=keras_models.mirrored_strategy())


def default(workload: workloads.Workload, _: int) -> Fit:
    """`fit` with the settings Keras chooses."""
    return Fit(workload)


def best(workload: workloads.Workload, steps_per_call: int) -> Fit:
    """The fastest of jit_compile on and off and of 1 or several steps an execution."""
    fastest: tuple[float, Fit] | None = None
    for jit_compile in (False, True):
        for steps in dict.fromkeys((1, min(8, steps_per_call), steps_per_call)):
            fit = Fit(workload, jit_compile=jit_compile, steps_per_execution=steps)
            fit.run(steps)
            # A few steps are enough to tell the settings apart; the race times the winner.
            measured = 2 * steps_per_call
            milliseconds = min(fit.run(measured) for _ in range(2)) * 1e3 / measured
            if fastest is None or milliseconds < fastest[0]:
                fastest = milliseconds, fit
            elif milliseconds > 3 * fastest[0]:
                break  # this compiler is out of the race at any number of steps
    assert fastest is not None
    settings = dict(part.split("=") for part in fastest[1].note.split(", "))
    return Fit(
        workload,
        jit_compile=settings["jit_compile"] == "True",
        steps_per_execution=int(settings["steps_per_execution"]),
    )
