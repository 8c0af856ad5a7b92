"""The choices of `--optimizer`: where each class is, and what the flags mean for it.

Flags are checked before TensorFlow is imported, so a class is named here and not imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class OptimizerChoice:
    """A choice of `--optimizer`.

    Attributes:
      name: the flag's value.
      place: the class, as "<module>.<class>" in `loop.optimizers`.
      learning_rate: the default of `--learning_rate`, which suits the binary's models.
      momentum: the class's own, the default of `--momentum`; None if the class has none.
      weight_decay: the class's own, the default of `--weight_decay`.
      fixed: arguments of the class that the choice itself gives.
      excludes_output: whether `exclude` is to have the pattern of the output layer's kernel.
    """

    name: str
    place: str
    learning_rate: float
    momentum: float | None = None
    weight_decay: float = 0.0
    fixed: Mapping[str, object] = dataclasses.field(default_factory=dict)
    excludes_output: bool = False


OPTIMIZERS = (
    OptimizerChoice("sgd", "sgd.SGD", 0.1),
    OptimizerChoice("momentum", "sgd.Momentum", 0.05, momentum=0.9),
    OptimizerChoice("nesterov", "sgd.Momentum", 0.05, momentum=0.9, fixed={"nesterov": True}),
    OptimizerChoice("adam", "adam.Adam", 0.002),
    OptimizerChoice("adamw", "adam.AdamW", 0.002, weight_decay=0.004),
    OptimizerChoice("adagrad", "adagrad.Adagrad", 0.05),
    OptimizerChoice("rmsprop", "rmsprop.RMSProp", 0.001, momentum=0.0),
    OptimizerChoice("adadelta", "adagrad.Adadelta", 1.0),
    OptimizerChoice("nadam", "adam.Nadam", 0.002),
    OptimizerChoice("amsgrad", "adam.AMSGrad", 0.002),
    OptimizerChoice("lion", "lion.Lion", 0.0003),
    OptimizerChoice("lamb", "layerwise.LAMB", 0.005),
    OptimizerChoice("lars", "layerwise.LARS", 1.0, momentum=0.9),
    OptimizerChoice("muon", "muon.Muon", 0.02, momentum=0.95, excludes_output=True),
)
BY_NAME = {choice.name: choice for choice in OPTIMIZERS}
WITH_MOMENTUM = tuple(choice.name for choice in OPTIMIZERS if choice.momentum is not None)


def defaults_in_words(field: str) -> str:
    """A field's values for `--help`: the most frequent one, then the others with their choices."""
    names: dict[float, list[str]] = {}
    for choice in OPTIMIZERS:
        if (value := getattr(choice, field)) is not None:
            names.setdefault(value, []).append(choice.name)
    most, *others = sorted(names, key=lambda value: -len(names[value]))
    rest = (f"{value:g} for {' and '.join(names[value])}" for value in others)
    return ", ".join((f"{most:g} by default", *rest))
