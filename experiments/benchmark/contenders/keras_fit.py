"""Keras's own loop: `model.fit`, as it comes or at the best setting of its two speed options."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import keras

from experiments.benchmark import workloads
from experiments.benchmark.contenders import base, keras_models


class _Clock(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Times only training, without the making of fit's iterator and callbacks."""

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.seconds = time.perf_counter() - self.started


class Contender(base.Base):
    """A compiled Keras model, trained by `fit`.

    Args:
      workload: what to train.
      steps_per_call: the most steps an execution that the search tries.
      mirrored: on two virtual CPUs under MirroredStrategy. One step an execution: with more, Keras
        3.15 fails there ("You must feed a value for placeholder tensor"), also without a check of
        the losses.
      search: takes the fastest settings; otherwise those that Keras chooses.
    """

    def __init__(
        self,
        workload: workloads.Workload,
        steps_per_call: int,
        *,
        mirrored: bool = False,
        search: bool = False,
    ) -> None:
        strategy = keras_models.mirrored_strategy() if mirrored else None
        self._data = keras_models.dataset(workload)
        with strategy.scope() if strategy else contextlib.nullcontext():
            self._compile(workload, self._fastest(workload, steps_per_call) if search else {})

    def _compile(self, workload: workloads.Workload, settings: dict[str, Any]) -> None:
        """Takes the initial weights again, and these settings of `compile`."""
        self.note = ", ".join(f"{key}={value}" for key, value in settings.items())
        self._model = keras_models.build(keras, workload)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        optimizer = keras_models.optimizer(keras, clip=True)
        self._model.compile(optimizer=optimizer, loss=loss, **settings)

    def _fastest(self, workload: workloads.Workload, steps_per_call: int) -> dict[str, Any]:
        """The fastest of jit_compile on and off and of 1 or several steps an execution."""
        fastest: tuple[float, dict[str, Any]] | None = None
        for jit_compile in (False, True):
            for steps in dict.fromkeys((1, min(8, steps_per_call), steps_per_call)):
                settings = {"jit_compile": jit_compile, "steps_per_execution": steps}
                self._compile(workload, settings)
                self.run(steps)
                # A few steps are enough to compare the settings; the race times the winner.
                seconds = min(self.run(2 * steps_per_call) for _ in range(2))
                if fastest is None or seconds < fastest[0]:
                    fastest = seconds, settings
                elif seconds > 3 * fastest[0]:
                    break  # this compiler cannot win at any number of steps
        assert fastest is not None
        return fastest[1]

    def first_losses(self, count: int) -> list[float]:
        """Each of the first steps' losses, one batch a `fit`."""
        fits = (self._model.fit(self._data.skip(i).take(1), verbose=0) for i in range(count))
        return [float(fit.history["loss"][0]) for fit in fits]

    def run(self, steps: int) -> float:
        """One epoch of `steps` steps."""
        clock = _Clock()
        self._model.fit(self._data, steps_per_epoch=steps, verbose=0, callbacks=[clock])
        return clock.seconds
