"""Works out the defaults that depend on other flags."""

from __future__ import annotations

from typing import Any

from experiments.flags import optimizer_choices, schedule_choices

DEFAULT_EPOCHS = 30
# Of the optimizers that have none: what was stored with their runs stays the same.
_NO_MOMENTUM = 0.9
_CLIP_NORM = {"value": 1.0, "norm": 1.0, "global_norm": 1.0, "adaptive": 0.01}
_NO_AUGMENTATION = {
    "rotation": 0.0,
    "shift": 0.0,
    "zoom": 0.0,
    "shear": 0.0,
    "flip": False,
    "crop": 0,
    "cutout": 0,
    "mixup": 0.0,
}
_PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "article": {"rotation": 20.0, "shift": 0.2, "flip": True},
    "standard": {"crop": 4, "flip": True},
}


def augmentation(preset: str) -> dict[str, Any]:
    """The augmentation flags that `--augment=preset` stands for."""
    return {**_NO_AUGMENTATION, **_PRESETS[preset]}


def complete(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with the defaults that other flags decide in place of None.

    Args:
      values: flag -> checked value, None where not given.
    """
    optimizer = optimizer_choices.BY_NAME[values["optimizer"]]
    defaults: dict[str, Any] = {
        "learning_rate": optimizer.learning_rate,
        "momentum": _NO_MOMENTUM if optimizer.momentum is None else optimizer.momentum,
        "weight_decay": optimizer.weight_decay,
        "decay_rate": schedule_choices.BY_NAME[values["schedule"]].decay_rate,
        "clip_norm": _CLIP_NORM.get(values["clip"]),
        "boundaries": (),
        "values": (),
        **augmentation(values["augment"]),
    }
    if values["values"]:
        defaults["learning_rate"] = values["values"][0]
    if values["steps"] is None:
        defaults["epochs"] = DEFAULT_EPOCHS
    given = {name: value for name, value in values.items() if value is not None}
    return {**values, **defaults, **given}
