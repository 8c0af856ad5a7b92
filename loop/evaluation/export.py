"""SavedModel export, checked by reloading it and comparing its outputs."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from loop.keras import adapter
from loop.variables import State, named

ModelFunction = Callable[..., Any]

_Tensors = dict[str, tf.Tensor]
_Specs = dict[str, tf.TensorSpec]


class ExportError(RuntimeError):
    """A SavedModel could not be written, or computes something else than the model."""


def export(
    path: str | os.PathLike[str],
    function: ModelFunction,
    inputs: Mapping[str, Any],
    state: Any,
    *,
    input_signature: Mapping[str, tf.TensorSpec] | None = None,
    tolerance: float = 1e-4,
) -> dict[str, float]:
    """Writes `function` as a SavedModel with a signature "serving_default".

    It is written beside `path`, loaded again, run on `inputs`, and only put in place if the outputs
    agree: there is never a faulty export under that name. Call it outside of any strategy's scope,
    within `trainer.evaluated_weights()` for the averaged weights.

    The sizes of the first axis, and of those that the inputs of a Keras model in `state` leave
    open, are free; `input_signature` says it otherwise. An input of another size in any other axis
    is an error when the SavedModel is called.

    Args:
      path: the directory; must not exist.
      function: name -> tensor keywords to a tensor or a dict of tensors; the model in inference
        mode. It must accept any size of the free axes.
      inputs: an example batch, name -> array [B, ...]: gives names, dtypes, shapes; also what the
        outputs are compared on: whole, its first example, and with its free axes but the first
        twice as long, where the function takes that.
      state: the owner of the variables that the function reads, as in a trainer's state.
      input_signature: name -> dtype and shape of each input, None for a free size.
      tolerance: how far outputs may differ, as a share of the largest of their finite absolute
        values: another batch size may be summed in another order. Integers and strings are equal.

    Returns:
      Output name -> the largest difference found, as such a share.

    Raises:
      ExportError: if path exists, the file system refuses, a variable is not in `state`, the
        function cannot be traced, is NaN on `inputs`, or outputs differ.
      ValueError: if an input has no first axis and no signature, or does not fit its signature.
    """
    target = Path(path)
    if target.exists():
        raise ExportError(f"export: {target} exists already; choose another path or remove it")
    tensors, specs = _inputs(inputs, input_signature, state)
    cases = _cases(function, tensors, specs)
    temporary = target.parent / f".exporting-{target.name}-{secrets.token_hex(4)}"
    traced = _traced(function, specs)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _save(temporary, *traced, named({"model": state}))
        serve = tf.saved_model.load(os.fspath(temporary)).signatures["serving_default"]
        found = [serve(**case) for case, _ in cases]
        differences = _compared([expected for _, expected in cases], found, tolerance)
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


def _inputs(
    inputs: Mapping[str, Any], signature: Mapping[str, tf.TensorSpec] | None, state: Any
) -> tuple[_Tensors, _Specs]:
    """The example batch, and what the exported function is traced for."""
    if signature is None:
        tensors = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
        for name, tensor in tensors.items():
            if tensor.shape.rank == 0:
                raise ValueError(
                    f"export: input {name!r} is a scalar; expected [B, ...], or an input_signature "
                    "with its shape"
                )
        declared = _declared(state)
        return tensors, {name: _spec(name, t, declared) for name, t in tensors.items()}
    if signature.keys() != inputs.keys():
        raise ValueError(
            f"export: input_signature expected to name the inputs {', '.join(inputs)}, found "
            f"{', '.join(signature)}; give one tf.TensorSpec for each"
        )
    tensors = {}
    for name, spec in signature.items():
        try:
            tensors[name] = tf.convert_to_tensor(inputs[name], spec.dtype)
        except (TypeError, ValueError) as error:
            raise ValueError(f"export: input {name!r} expected to be {spec}: {error}") from None
        if not spec.shape.is_compatible_with(tensors[name].shape):
            raise ValueError(
                f"export: input {name!r} expected the shape {spec.shape} of its input_signature, "
                f"found {tensors[name].shape}; correct one of them"
            )
    return tensors, {
        name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in signature.items()
    }


def _declared(owner: Any) -> dict[str, tuple[int | None, ...]]:
    """The inputs that the Keras models in an owner of state declare: name -> shape."""
    if isinstance(owner, Mapping):
        owner = list(owner.values())
    if isinstance(owner, (list, tuple)):
        return {name: shape for one in owner for name, shape in _declared(one).items()}
    return adapter.declared_inputs(owner)


def _spec(
    name: str, tensor: tf.Tensor, declared: Mapping[str, tuple[int | None, ...]]
) -> tf.TensorSpec:
    """The input with its first axis free, and those which a Keras model's input leaves open."""
    sizes = tensor.shape.as_list()
    only = next(iter(declared.values())) if len(declared) == 1 else ()
    open_to = declared.get(name, only)
    if tf.TensorShape(open_to).is_compatible_with(sizes):
        sizes = [None if free is None else size for free, size in zip(open_to, sizes, strict=True)]
    return tf.TensorSpec([None, *sizes[1:]], tensor.dtype, name=name)


def _cases(
    function: ModelFunction, tensors: _Tensors, specs: _Specs
) -> list[tuple[_Tensors, dict[str, npt.NDArray[Any]]]]:
    """What the export is compared on: inputs, and the function's own outputs for them."""
    first, longer = dict(tensors), dict(tensors)
    for name, spec in specs.items():
        for axis, size in enumerate(spec.shape):
            if size is None and axis == 0:
                first[name] = first[name][:1]
            elif size is None:
                longer[name] = tf.concat([longer[name], longer[name]], axis)
    cases = [(tensors, _outputs(function, tensors)), (first, _outputs(function, first))]
    if any(longer[name] is not tensors[name] for name in tensors):
        # A failure is no fault of the export: a model may have a greatest length.
        with contextlib.suppress(Exception):
            cases.append((longer, _outputs(function, longer)))
    return cases


def _outputs(function: ModelFunction, tensors: _Tensors) -> dict[str, npt.NDArray[Any]]:
    outputs = {}
    for name, tensor in _named(function(**tensors)).items():
        outputs[name] = np.asarray(tf.convert_to_tensor(tensor))
        missing = _count_nan(outputs[name])
        if missing:
            raise ExportError(
                f"export: the model's own {name!r} is NaN in {missing} of {outputs[name].size} "
                "values, which cannot be compared; give inputs for which it is a number"
            )
    return outputs


def _traced(function: ModelFunction, specs: _Specs) -> tuple[Any, Any]:
    """The function as a graph that refuses other sizes, and its trace for the signature."""

    def checked(**tensors: tf.Tensor) -> _Tensors:
        # A SavedModel checks no shapes, and a graph of fixed sizes may cut an input to them.
        return _named(
            function(**{n: tf.ensure_shape(t, specs[n].shape) for n, t in tensors.items()})
        )

    traced = tf.function(checked, autograph=False)
    try:
        return traced, traced.get_concrete_function(**specs)
    except Exception as error:
        shapes = ", ".join(f"{name} {spec.dtype.name}{spec.shape}" for name, spec in specs.items())
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"export: the function cannot be traced for {shapes} ({type(error).__name__}: "
            f"{reason}); give an input_signature whose free axes (None) it can take"
        ) from error


def _save(path: Path, traced: Any, signature: Any, variables: State) -> None:
    module = tf.Module()
    # What the SavedModel is to hold: a module finds the variables of its attributes.
    module.model_variables = list(variables.values())
    module.function = traced
    tf.saved_model.save(module, os.fspath(path), signatures={"serving_default": signature})


def _named(outputs: Any) -> _Tensors:
    return dict(outputs) if isinstance(outputs, Mapping) else {"output": outputs}


def _compared(
    expected: list[dict[str, npt.NDArray[Any]]],
    found: list[Mapping[str, tf.Tensor]],
    tolerance: float,
) -> dict[str, float]:
    differences = dict.fromkeys(expected[0], 0.0)
    for wanted, given in zip(expected, found, strict=True):
        for name, value in wanted.items():
            difference = _difference(name, value, np.asarray(given[name]))
            differences[name] = max(differences[name], difference)
            allowed = tolerance if _is_inexact(value) else 0.0
            if not difference <= allowed:
                of = "values" if value.dtype.kind in "OSU" else "its largest value"
                raise ExportError(
                    f"export: the reloaded model's {name!r} differs by {difference:.3g} of {of}, "
                    f"expected at most {allowed:g}; does the function read values from outside its "
                    "inputs and variables?"
                )
    return differences


def _difference(name: str, value: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    """The largest difference as a share of the largest finite value; of strings, their share."""
    if value.shape != found.shape:
        raise ExportError(
            f"export: the reloaded model's {name!r} has shape {list(found.shape)}, expected "
            f"{list(value.shape)} as the function's; does it depend on the size of a free axis?"
        )
    unequal = value != found  # Infinities of one sign are equal.
    if not unequal.any():
        return 0.0
    if value.dtype.kind in "OSU":
        return float(np.mean(unequal))
    wide = np.complex128 if value.dtype.kind == "c" else np.float64
    with np.errstate(invalid="ignore"):
        apart = np.abs(found[unequal].astype(wide) - value[unequal].astype(wide))
    sizes = np.abs(value.astype(wide))
    return float(apart.max()) / (float(sizes[np.isfinite(sizes)].max(initial=0.0)) or 1.0)


def _is_inexact(value: npt.NDArray[Any]) -> bool:
    return value.dtype.kind not in "OSUbiu"


def _count_nan(value: npt.NDArray[Any]) -> int:
    return int(np.count_nonzero(value != value)) if _is_inexact(value) else 0
