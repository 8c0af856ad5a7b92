"""From settings to optimizer and schedule: what no flag says is the library's own default."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from experiments import flags
from experiments.flags import training
from experiments.training import models, recipe
from loop import optimizers, schedules
from loop.optimizers import Optimizer
from loop.precision.policy import Precision

_CLASSES = {
    "sgd": optimizers.SGD,
    "momentum": optimizers.Momentum,
    "nesterov": optimizers.Momentum,
    "adam": optimizers.Adam,
    "adamw": optimizers.AdamW,
    "adagrad": optimizers.Adagrad,
    "rmsprop": optimizers.RMSProp,
    "adadelta": optimizers.Adadelta,
    "nadam": optimizers.Nadam,
    "amsgrad": optimizers.AMSGrad,
    "lion": optimizers.Lion,
    "lamb": optimizers.LAMB,
    "lars": optimizers.LARS,
    "muon": optimizers.Muon,
}
# What the binary says itself: the rate, Nesterov's form, and which variables are meant.
_SAID = ("_schedule", "_decays", "_nesterov", "_exclude", "_adapts")


def _optimizer(*arguments: str, output_kernel: str = "logits/kernel") -> Optimizer:
    settings = flags.parse(["train", *arguments])
    return recipe.optimizer(settings, schedules.constant(0.1), output_kernel=output_kernel)


def _numbers(optimizer: Optimizer) -> dict[str, Any]:
    return {name: value for name, value in vars(optimizer).items() if name not in _SAID}


@pytest.mark.parametrize("name", training.OPTIMIZERS)
def test_flags_that_are_not_given_leave_the_optimizers_defaults(name: str) -> None:
    """Every number but the learning rate is that of the class made without arguments."""
    made = _optimizer(f"--optimizer={name}")
    assert type(made) is _CLASSES[name]
    assert _numbers(made) == _numbers(_CLASSES[name]())


@pytest.mark.parametrize("name", training.WITH_MOMENTUM)
def test_a_given_momentum_is_the_optimizers(name: str) -> None:
    """The flag reaches each of the families that have one."""
    made: Any = _optimizer(f"--optimizer={name}", "--momentum=0.37")
    assert made._momentum == 0.37


_SCHEDULES = {
    "polynomial": (schedules.polynomial_decay, ("end_learning_rate", "power", "cycle")),
    "cosine": (schedules.cosine_decay, ("decay_alpha",)),
    "cosine_restarts": (schedules.cosine_decay_restarts, ("t_mul", "m_mul", "decay_alpha")),
    "linear_cosine": (
        schedules.linear_cosine_decay,
        ("num_periods", "decay_alpha", "decay_beta"),
    ),
    "one_cycle": (
        schedules.one_cycle,
        ("warmup_fraction", "initial_divisor", "final_divisor"),
    ),
    "exponential": (schedules.exponential_decay, ("staircase",)),
}


@pytest.mark.parametrize("name", _SCHEDULES)
def test_flags_that_are_not_given_leave_the_schedules_defaults(name: str) -> None:
    """A schedule's flag has the default of the argument that it sets."""
    function, names = _SCHEDULES[name]
    settings = flags.parse(["train", f"--schedule={name}", "--decay_steps=7"])
    parameters = inspect.signature(function).parameters
    for flag in names:
        default = parameters[flag.removeprefix("decay_")].default
        assert default is not inspect.Parameter.empty
        assert getattr(settings, flag) == default, flag


@pytest.mark.parametrize("name", ["cnn", "mlp", "resnet", "keras_cnn"])
def test_muon_leaves_the_output_layer_to_adam(name: str) -> None:
    """Of each model, every matrix but the output layer's has Muon's velocity; that one Adam's."""
    size = 32 if name == "resnet" else 8
    precision = Precision("float32")
    model = models.make(
        name, (size, size, 1), 10, dropout=0.0, seed=1, precision=precision, synchronized=False
    )
    optimizer = _optimizer("--optimizer=muon", output_kernel=models.output_kernel(model))
    variables = list(model.trainable_variables)
    optimizer.build(variables)
    slots: dict[str, set[str]] = {}
    for path in optimizer.state:
        variable, _, slot = path.rpartition("/")
        if variable:
            slots.setdefault(variable, set()).add(slot)
    outputs = [
        trained.name
        for trained in optimizer._trained
        if trained is not None
        and trained.variable.shape.rank == 2
        and trained.variable.shape[1] == 10
    ]
    assert outputs == [models.output_kernel(model)]
    for trained in optimizer._trained:
        assert trained is not None
        hidden = trained.variable.shape.rank >= 2 and trained.name not in outputs
        assert slots[trained.name] == ({"momentum"} if hidden else {"m", "v"}), trained.name


def test_muon_of_the_binary_is_muon_of_its_docstring() -> None:
    """One update: the hidden kernel by the orthogonal rule at 0.95, the output's by Adam's."""
    rng = np.random.default_rng(4)
    start = {"hidden/kernel": rng.normal(size=(6, 4)), "logits/kernel": rng.normal(size=(4, 3))}
    gradients = [tf.constant(rng.normal(size=value.shape)) for value in start.values()]

    def updated(optimizer: Optimizer) -> list[np.ndarray]:
        variables = [tf.Variable(value, name=name) for name, value in start.items()]
        optimizer.build(variables)
        for _ in range(2):
            optimizer.apply(gradients, global_step=tf.constant(0, tf.int64))
        return [variable.numpy() for variable in variables]

    found = updated(_optimizer("--optimizer=muon"))
    expected = updated(optimizers.Muon(0.1, exclude=["logits"]))
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
