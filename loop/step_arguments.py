"""What a `GradientStep` refuses before it builds anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loop.user_code import found


def check_arguments(loss_fn: Any, variables: Any, optimizer: Any, clip: Any) -> None:
    """Refuses arguments of another kind, before anything is built from them.

    Args:
      loss_fn: a function of the batch.
      variables: a list or tuple, not empty.
      optimizer: with the methods of `loop.optimizers.Optimizer`.
      clip: a function or None.

    Raises:
      TypeError, ValueError: in one line.
    """
    if not callable(loss_fn):
        raise TypeError(
            "GradientStep: loss_fn expected to be a function of the batch, found "
            f"{found(loss_fn)}; compute the loss in a function and give that"
        )
    if not isinstance(variables, Sequence) or isinstance(variables, str):
        raise TypeError(
            "GradientStep: variables expected to be a list of variables, found "
            f"{found(variables)}; give model.trainable_variables"
        )
    if not variables:
        raise ValueError(
            "GradientStep: variables is empty, expected what is to be trained; a Keras model "
            "without an Input has none until it was built: give it a keras.Input, or call it on a "
            "batch"
        )
    wanted = ("is_frozen", "build", "apply", "learning_rate_at")
    if isinstance(optimizer, type) or not all(hasattr(optimizer, name) for name in wanted):
        raise TypeError(
            "GradientStep: optimizer expected to be one of loop.optimizers, found "
            f"{found(optimizer)}; make one, as loop.optimizers.Adam(1e-3), or wrap Keras's: "
            "loop.keras.KerasOptimizer(keras.optimizers.Adam(1e-3))"
        )
    if clip is not None and not callable(clip):
        raise TypeError(
            f"GradientStep: clip expected to be one of kernels.clipping's or None, found "
            f"{found(clip)}; give kernels.ClipByGlobalNorm(1.0)"
        )
