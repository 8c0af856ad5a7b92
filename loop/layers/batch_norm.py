"""Batch normalisation with moving statistics."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

import kernels
from kernels import target
from loop import step_context
from loop.layers.initial import check_positive, filled
from loop.layers.module import Module


class BatchNorm(Module):
    """Batch normalisation with moving statistics, by `kernels.batch_norm_training`.

    The statistics wait for the finite check of the step: a skipped step does not change them, nor
    does a fully masked batch. With several replicas, or micro-batches, the mean over
    them enters (weighted by examples), one update a step.

    Args:
      channels: size of the last axis.
      name: of the layer; its variables are `name/scale`, `name/offset`, `name/moving_mean` and
        `name/moving_variance`, all [channels].
      momentum: the share of the old statistics kept by a step (Keras's default is 0.99).
      epsilon: added to the variance.
      bessel: whether the stored variance is Bessel-corrected, as compat.v1's fused form stores it;
        False is Keras's convention.
      relu: whether a ReLU follows, fused.
      synchronized: whether the moments are taken over all replicas (one collective a layer each
        way) instead of over each replica's slice. Outside XLA they are then the same to the bit on
        any number of replicas, so one replica does not use the fused operation; see
        docs/measurements/decisions.md.
      dtype: of the variables.

    Raises:
      ValueError: if channels is below 1 or momentum outside [0, 1].
    """

    def __init__(
        self,
        channels: int,
        *,
        name: str,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        bessel: bool = False,
        relu: bool = False,
        synchronized: bool = False,
        dtype: Any = tf.float32,
    ) -> None:
        check_positive(f"BatchNorm {name!r}", channels=channels)
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"BatchNorm {name!r}: momentum must be in [0, 1], got {momentum}")

        def variable(suffix: str, value: float, trainable: bool) -> tf.Variable:
            return filled(
                value, channels, name=f"{name}/{suffix}", dtype=dtype, trainable=trainable
            )

        self.scale = variable("scale", 1.0, True)
        self.offset = variable("offset", 0.0, True)
        self.moving_mean = variable("moving_mean", 0.0, False)
        self.moving_variance = variable("moving_variance", 1.0, False)
        self.name = name
        self.momentum = momentum
        self.epsilon = epsilon
        self.bessel = bessel
        self.relu = relu
        self.synchronized = synchronized

    def __call__(self, x: tf.Tensor, *, training: bool) -> tf.Tensor:
        """[B, ..., channels] -> the same shape and dtype.

        Raises:
          RuntimeError: when training outside a step.
        """
        if not training:
            return kernels.batch_norm_inference(
                x,
                self.scale,
                self.offset,
                self.moving_mean,
                self.moving_variance,
                epsilon=self.epsilon,
                relu=self.relu,
            )
        context = step_context.current(f"BatchNorm {self.name!r}")
        # On one replica too, so that its moments equal those of several to the bit. XLA has a form
        # of its own, since under replicas it cannot compile a collective.
        synchronized = self.synchronized and target.current().compiler != "xla"
        y, moments = kernels.batch_norm_training(
            x,
            self.scale,
            self.offset,
            epsilon=self.epsilon,
            mask=context.mask,
            relu=self.relu,
            all_reduce_sum=context.sum_over_replicas if synchronized else None,
            bessel=self.bessel,
        )
        context.record(self.moving_mean, moments.mean, self.momentum, moments.count)
        context.record(self.moving_variance, moments.variance, self.momentum, moments.count)
        return y
