"""From settings to optimizer and schedule: what no flag says is the library's own default."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from experiments import flags
from experiments.flags import optimizer_choices, schedule_choices
from experiments.flags.optimizer_choices import OptimizerChoice
from experiments.flags.schedule_choices import ScheduleChoice
from experiments.flags.settings import BY_NAME
from experiments.training import models, recipe
from loop import optimizers, schedules
from loop.optimizers import Optimizer
from loop.optimizers.rule import Rule
from loop.precision.policy import Precision

# What the binary says itself: the rate, and which variables are meant.
_SAID = ("_schedule", "_decays", "_exclude", "_adapts")
_of_optimizers = pytest.mark.parametrize(
    "choice", optimizer_choices.OPTIMIZERS, ids=optimizer_choices.BY_NAME
)
_of_schedules = pytest.mark.parametrize(
    "choice", schedule_choices.SCHEDULES, ids=schedule_choices.BY_NAME
)


def _optimizer(*arguments: str, output_kernel: str = "logits/kernel") -> Optimizer:
    settings = flags.parse(["train", *arguments])
    return recipe.optimizer(settings, schedules.constant(0.1), output_kernel=output_kernel)


def _comparable(value: Any) -> Any:
    """A rule as its parts: two partials of one function with the same arguments are not equal."""
    if isinstance(value, Rule):
        return {key: _comparable(part) for key, part in vars(value).items()}
    if isinstance(value, functools.partial):
        return value.func, value.keywords
    return value


def _numbers(optimizer: Optimizer) -> dict[str, Any]:
    return {k: _comparable(v) for k, v in vars(optimizer).items() if k not in _SAID}


@_of_optimizers
def test_flags_that_are_not_given_leave_the_optimizers_defaults(choice: OptimizerChoice) -> None:
    """Every number but the learning rate is that of the class made without arguments."""
    made = _optimizer(f"--optimizer={choice.name}")
    assert _numbers(made) == _numbers(type(made)(**choice.fixed))


@_of_optimizers
def test_an_optimizers_flag_is_its_class_in_small_letters(choice: OptimizerChoice) -> None:
    """The table names the right class; a choice with arguments of its own has a name of its own."""
    made = type(_optimizer(f"--optimizer={choice.name}"))
    assert made.__module__.startswith("loop.optimizers.")
    assert choice.fixed or made.__name__.lower() == choice.name


def test_every_public_optimizer_and_schedule_has_a_flag() -> None:
    """What `loop.optimizers` and `loop.schedules` export can be chosen, but for what combines."""
    classes = {
        value
        for name in optimizers.__all__
        if inspect.isclass(value := getattr(optimizers, name)) and value is not Optimizer
    }
    chosen = {
        recipe.placed("loop.optimizers", choice.place) for choice in optimizer_choices.OPTIMIZERS
    }
    assert classes <= chosen
    combining = {"as_schedule", "join", "linear_warmup", "with_scale"}
    functions = {
        value
        for name in set(schedules.__all__) - combining
        if inspect.isfunction(value := getattr(schedules, name))
    }
    assert functions <= {
        recipe.placed("loop.schedules", choice.place) for choice in schedule_choices.SCHEDULES
    }


@_of_optimizers
def test_a_given_momentum_is_the_optimizers(choice: OptimizerChoice) -> None:
    """The flag is of each class that takes a momentum, and reaches it."""
    made = type(_optimizer(f"--optimizer={choice.name}"))
    takes = "momentum" in inspect.signature(made).parameters
    assert (
        takes == (choice.momentum is not None) == (choice.name in optimizer_choices.WITH_MOMENTUM)
    )
    if takes:
        made_with: Any = _optimizer(f"--optimizer={choice.name}", "--momentum=0.37")
        assert made_with._rule.constants["momentum"] == 0.37


@_of_schedules
def test_a_schedules_flags_are_its_functions_arguments(choice: ScheduleChoice) -> None:
    """Every argument without a default has a flag; a flag has the default of its argument."""
    function = recipe.placed("loop.schedules", choice.place)
    parameters = inspect.signature(function).parameters
    assert set(choice.flags) <= set(parameters)
    for argument, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty:
            assert argument in choice.flags
        elif argument in choice.flags:
            assert BY_NAME[choice.flags[argument]].default == parameter.default, argument
    assert ("decay_rate" in choice.flags.values()) == (choice.decay_rate is not None)


# One more than the tables: what the flags say, as a user of the library would write it.
_WRITTEN = {
    "--schedule=constant": schedules.constant(0.3),
    "--schedule=exponential --staircase": schedules.exponential_decay(0.3, 7, 0.96, True),
    "--schedule=natural_exp": schedules.natural_exp_decay(0.3, 7, 0.5),
    "--schedule=inverse_time --decay_rate=2": schedules.inverse_time_decay(0.3, 7, 2.0),
    "--schedule=step": schedules.step_decay(0.3, 0.1, 7),
    "--schedule=polynomial --power=2 --cycle": schedules.polynomial_decay(0.3, 7, 1e-4, 2.0, True),
    "--schedule=cosine --decay_alpha=0.1": schedules.cosine_decay(0.3, 7, 0.1),
    "--schedule=cosine_restarts --t_mul=3": schedules.cosine_decay_restarts(0.3, 7, 3.0),
    "--schedule=linear_cosine": schedules.linear_cosine_decay(0.3, 7, 0.5, 0.0, 0.001),
    "--schedule=one_cycle --final_divisor=9": schedules.one_cycle(0.3, 7, final_divisor=9.0),
    "--schedule=step --warmup_steps=5": schedules.linear_warmup(
        schedules.step_decay(0.3, 0.1, 7), 5
    ),
}


@pytest.mark.parametrize("command", _WRITTEN)
def test_a_schedules_flags_reach_its_arguments(command: str) -> None:
    """The schedule of a command line is the one that its function makes of the same numbers."""
    rate, length = "--learning_rate=0.3", "--decay_steps=7"
    if command.endswith("constant"):
        settings = flags.parse(["train", command, rate])
    else:
        settings = flags.parse(["train", *command.split(), rate, length])
    assert recipe.schedule(settings, 99) == _WRITTEN[command]


def test_the_piecewise_schedule_and_the_end_of_a_run() -> None:
    """Boundaries and values make the one; a schedule that ends takes what the warm-up leaves."""
    piecewise = ["--schedule=piecewise", "--boundaries=3,5", "--values=1,0.1,0.2"]
    made = recipe.schedule(flags.parse(["train", *piecewise]), 9)
    assert made == schedules.piecewise_constant((3, 5), (1.0, 0.1, 0.2))
    settings = flags.parse(["train", "--schedule=cosine", "--warmup_steps=4", "--learning_rate=1"])
    expected = schedules.linear_warmup(schedules.cosine_decay(1.0, 96), 4)
    assert recipe.schedule(settings, 100) == expected


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
