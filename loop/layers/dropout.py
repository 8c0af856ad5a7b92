"""Dropout as a function of the seed, the global step and the position."""

from __future__ import annotations

import tensorflow as tf

from kernels import random
from loop import step_context


class Dropout:
    """Sets a random share of the elements to zero and scales the rest up.

    Which ones follows from (seed, name, global step, position in the global batch, element): the
    same on any number of replicas, and again after a resume.

    Args:
      rate: the share dropped, in [0, 1).
      name: names the stream of random numbers; layers with the same name drop the same elements.

    Raises:
      ValueError: if rate is outside [0, 1).
    """

    def __init__(self, rate: float, *, name: str) -> None:
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"Dropout {name!r}: rate must be in [0, 1), got {rate}")
        self.rate = rate
        self.name = name

    def __call__(self, x: tf.Tensor, *, training: bool) -> tf.Tensor:
        """[B, ...] -> the same shape and dtype.

        Raises:
          RuntimeError: when training outside a step.
        """
        if not training or self.rate == 0.0:
            return x
        context = step_context.current(f"Dropout {self.name!r}")
        keep = 1.0 - self.rate
        kept = random.bernoulli_mask(
            context.seed,
            f"dropout/{self.name}",
            context.global_step,
            context.positions,
            tuple(x.shape[1:]),
            keep=keep,
        )
        return tf.where(kept, x * tf.constant(1.0 / keep, x.dtype), tf.zeros([], x.dtype))
