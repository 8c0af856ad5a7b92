"""SavedModel export, checked by reloading it and comparing its outputs."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from loop.variables import State, named

ModelFunction = Callable[..., Any]


class ExportError(RuntimeError):
    """A SavedModel could not be written, or computes something else than the model."""


def export(
    path: str | os.PathLike[str],
    function: ModelFunction,
    inputs: Mapping[str, Any],
    state: Any,
    *,
    tolerance: float = 1e-4,
) -> dict[str, float]:
    """Writes `function` as a SavedModel with a signature "serving_default" of any batch size.

    It is written beside `path`, loaded again, run on `inputs`, and only put in place if the outputs
    agree: there is never a faulty export under that name. Call it outside of any strategy's scope,
    within `trainer.evaluated_weights()` for the averaged weights.

    Args:
      path: the directory; must not exist.
      function: name -> tensor keywords to a tensor or a dict of tensors; the model in inference
        mode. It must accept any size of the first axis.
      inputs: an example batch, name -> array [B, ...]: gives names, dtypes, shapes; also what the
        outputs are compared on.
      state: the owner of the variables that the function reads, as in a trainer's state.
      tolerance: how far outputs may differ, as a share of the largest of their absolute values:
        another batch size may be summed in another order.

    Returns:
      Output name -> the largest difference found, as such a share.

    Raises:
      ExportError: if path exists, the file system refuses, a variable is not in `state`, or outputs
        differ.
      ValueError: if an input has no first axis.
    """
    target = Path(path)
    if target.exists():
        raise ExportError(f"export: {target} exists already; choose another path or remove it")
    tensors = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
    for name, tensor in tensors.items():
        if tensor.shape.rank == 0:
            raise ValueError(f"export: input {name!r} is a scalar; expected [B, ...]")
    expected = _named(function(**tensors))
    temporary = target.parent / f".exporting-{target.name}-{secrets.token_hex(4)}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _save(temporary, function, tensors, named({"model": state}))
        found = _loaded(temporary, tensors)
        differences = _compared(expected, found, tolerance)
        os.rename(temporary, target)
    except (OSError, AssertionError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ExportError(
            f"export: {target} could not be written ({reason[:300]}); check the path, and that "
            "`state` owns every variable of the model"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return differences


def _save(
    path: Path,
    function: ModelFunction,
    tensors: Mapping[str, tf.Tensor],
    variables: State,
) -> None:
    specs = {
        name: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype, name=name)
        for name, tensor in tensors.items()
    }
    traced = tf.function(lambda **named: _named(function(**named)), autograph=False)
    module = tf.Module()
    # What the SavedModel is to hold: a module finds the variables of its attributes.
    module.model_variables = list(variables.values())
    module.function = traced
    signature = traced.get_concrete_function(**specs)
    tf.saved_model.save(module, os.fspath(path), signatures={"serving_default": signature})


def _loaded(path: Path, tensors: Mapping[str, tf.Tensor]) -> dict[str, Any]:
    """The reloaded signature's outputs for the whole batch, and those of each example, joined."""
    serve = tf.saved_model.load(os.fspath(path)).signatures["serving_default"]
    whole = {name: value.numpy() for name, value in serve(**tensors).items()}
    first = {name: value.numpy() for name, value in serve(**_first(tensors)).items()}
    return {name: (whole[name], first[name]) for name in whole}


def _first(tensors: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {name: tensor[:1] for name, tensor in tensors.items()}


def _named(outputs: Any) -> dict[str, tf.Tensor]:
    return dict(outputs) if isinstance(outputs, Mapping) else {"output": outputs}


def _compared(
    expected: Mapping[str, tf.Tensor], found: Mapping[str, Any], tolerance: float
) -> dict[str, float]:
    differences = {}
    for name, tensor in expected.items():
        value = np.asarray(tf.cast(tensor, tf.float64))
        scale = float(np.abs(value).max(initial=0.0)) or 1.0
        whole, first = (np.asarray(part, np.float64) for part in found[name])
        apart = [np.abs(whole - value).max(initial=0.0), np.abs(first - value[:1]).max(initial=0.0)]
        differences[name] = float(max(apart)) / scale
        if not differences[name] <= tolerance:
            raise ExportError(
                f"export: the reloaded model's {name!r} differs by {differences[name]:.3g} of its "
                f"largest value, expected at most {tolerance:g}; does the function read values "
                "from outside its inputs and variables?"
            )
    return differences
