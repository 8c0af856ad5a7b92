"""Which dtypes a step's variables and computation have."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

_DTYPES: dict[str, tuple[tf.DType, tf.DType]] = {
    "float32": (tf.float32, tf.float32),
    "float64": (tf.float64, tf.float64),
    "mixed_bfloat16": (tf.float32, tf.bfloat16),
    "mixed_float16": (tf.float32, tf.float16),
}


@dataclasses.dataclass(frozen=True)
class Precision:
    """A precision by name, as Keras names its dtype policies.

    Layers compute in the dtype of their input and cast their variables to it. So the computation is
    in a half type where the batch's inputs are; variables, gradients, loss and statistics stay
    float32. A Keras model casts for itself: give it the policy of the same name.

    Args:
      name: "float32", "float64", "mixed_bfloat16" or "mixed_float16".
      inputs: the batch's entries that are cast; None for all floating ones. Name them where targets
        are floating too and need more than 8 or 11 bits.

    Attributes:
      variable_dtype: of the variables.
      compute_dtype: of the inputs, and so of the computation.
      scales_loss: whether gradients may underflow, so that the loss is to be scaled.

    Raises:
      ValueError: on another name.
    """

    name: str
    inputs: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.name not in _DTYPES:
            raise ValueError(
                f"Precision: name must be one of {', '.join(_DTYPES)}, got {self.name!r}"
            )

    @property
    def variable_dtype(self) -> tf.DType:
        """The dtype of the variables."""
        return _DTYPES[self.name][0]

    @property
    def compute_dtype(self) -> tf.DType:
        """The dtype of the inputs."""
        return _DTYPES[self.name][1]

    @property
    def scales_loss(self) -> bool:
        """Whether the compute dtype's exponent is too short for gradients: float16's 5 bits."""
        return bool(self.compute_dtype == tf.float16)

    def cast(self, batch: Any) -> Any:
        """The batch with its inputs in the compute dtype; integers stay as they are.

        Args:
          batch: a nest of tensors; a dict where `inputs` are named.

        Raises:
          ValueError: if the batch lacks one of `inputs`.
        """
        if not isinstance(batch, Mapping):
            if self.inputs is not None:
                raise ValueError(
                    f"Precision: inputs={self.inputs} expected a dict as the batch, found "
                    f"{type(batch).__name__}; leave `inputs` out, or give the feed a dict"
                )
            return tf.nest.map_structure(self.cast_tensor, batch)
        if self.inputs is not None:
            missing = [name for name in self.inputs if name not in batch]
            if missing:
                raise ValueError(
                    f"Precision: the batch has no {missing[0]!r} to cast, it has "
                    f"{', '.join(batch)}; correct `inputs`"
                )
        names = batch if self.inputs is None else self.inputs
        return {
            key: tf.nest.map_structure(self.cast_tensor, value) if key in names else value
            for key, value in batch.items()
        }

    def cast_tensor(self, tensor: tf.Tensor) -> tf.Tensor:
        """A floating tensor in the compute dtype; any other as it is."""
        return tf.cast(tensor, self.compute_dtype) if tensor.dtype.is_floating else tensor

    def check_variables(self, names: Sequence[str], variables: Sequence[tf.Variable]) -> None:
        """Refuses variables of another dtype than the precision's.

        Raises:
          ValueError: names the first.
        """
        for name, variable in zip(names, variables, strict=True):
            if variable.dtype != self.variable_dtype:
                raise ValueError(
                    f"Precision {self.name!r}: expected variables of {self.variable_dtype.name}, "
                    f"found {name!r} of {variable.dtype.name}; make the model with that dtype"
                )


def as_precision(value: Precision | str) -> Precision:
    """The precision that `value` is, or that it names.

    Raises:
      ValueError: on an unknown name.
    """
    return value if isinstance(value, Precision) else Precision(value)
