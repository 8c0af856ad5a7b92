"""Works out the defaults that depend on other flags."""

from __future__ import annotations

from typing import Any

DEFAULT_EPOCHS = 30
LEARNING_RATES = {
    "sgd": 0.1,
    "momentum": 0.05,
    "nesterov": 0.05,
    "adam": 0.002,
    "adamw": 0.002,
    "adagrad": 0.05,
    "rmsprop": 0.001,
    "adadelta": 1.0,
    "nadam": 0.002,
    "amsgrad": 0.002,
    "lion": 0.0003,
    "lamb": 0.005,
    "lars": 1.0,
    "muon": 0.02,
}
# The optimizers' own defaults, which a test compares: TensorFlow is not imported here.
_MOMENTUM = 0.9
_OWN_MOMENTUM = {"rmsprop": 0.0, "muon": 0.95}
_WEIGHT_DECAY = {"adamw": 0.004}
# natural_exp and inverse_time: rates of the exponent and of the divisor.
_DECAY_RATE = {"exponential": 0.96, "step": 0.1, "natural_exp": 0.5, "inverse_time": 0.5}
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
    defaults: dict[str, Any] = {
        "learning_rate": LEARNING_RATES[values["optimizer"]],
        "momentum": _OWN_MOMENTUM.get(values["optimizer"], _MOMENTUM),
        "weight_decay": _WEIGHT_DECAY.get(values["optimizer"], 0.0),
        "decay_rate": _DECAY_RATE.get(values["schedule"]),
        "clip_norm": _CLIP_NORM.get(values["clip"]),
        "boundaries": (),
        "values": (),
        **augmentation(values["augment"]),
    }
    if values["schedule"] == "piecewise":
        defaults["learning_rate"] = values["values"][0]
    if values["steps"] is None:
        defaults["epochs"] = DEFAULT_EPOCHS
    given = {name: value for name, value in values.items() if value is not None}
    return {**values, **defaults, **given}
