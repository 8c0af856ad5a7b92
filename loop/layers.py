"""Layers: variables around a kernel.

A layer's sizes are given, not inferred, so that its variables exist before anything is traced, and
its name is given, so that state, slots and messages call a variable the same in every run. Initial
values are drawn from (seed, name): the same on any number of replicas. Layers compute in the dtype
of what they are given; the variables keep their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

import kernels
from kernels import random, target
from loop import step_context
from loop.module import Module


def _drawn(
    shape: Sequence[int], *, name: str, seed: int, deviation: float, dtype: tf.DType
) -> tf.Variable:
    """A variable of normal values, each a function of (seed, name, place)."""
    rows = tf.range(shape[0])
    values = random.normal(seed, name, 0, rows, tuple(shape[1:]), dtype=dtype)
    return tf.Variable(values * tf.constant(deviation, dtype), name=name)


def _filled(value: float, size: int, *, name: str, dtype: Any, trainable: bool) -> tf.Variable:
    return tf.Variable(tf.fill([size], tf.cast(value, dtype)), name=name, trainable=trainable)


def _positive(layer: str, **sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{layer}: {name} must be at least 1, got {size}")


class Dense(Module):
    """`y = x @ kernel + bias`.

    Args:
      inputs: size of the last axis of x.
      units: size of the last axis of y.
      name: of the layer; its variables are `name/kernel` [inputs, units] and `name/bias` [units].
      seed: of the initial kernel, normal with variance 2 / inputs (He et al. 2015) or, with
        `gain=1`, 1 / inputs.
      gain: the variance times `inputs`.
      bias: whether there is one; leave it out before a BatchNorm, whose offset replaces it.
      dtype: of the variables.

    Raises:
      ValueError: if a size is below 1.
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        *,
        name: str,
        seed: int,
        gain: float = 2.0,
        bias: bool = True,
        dtype: Any = tf.float32,
    ) -> None:
        _positive(f"Dense {name!r}", inputs=inputs, units=units)
        deviation = math.sqrt(gain / inputs)
        shape = (inputs, units)
        self.kernel = _drawn(
            shape, name=f"{name}/kernel", seed=seed, deviation=deviation, dtype=dtype
        )
        self.bias = (
            _filled(0.0, units, name=f"{name}/bias", dtype=dtype, trainable=True) if bias else None
        )

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """[..., inputs] -> [..., units], in x's dtype."""
        y = tf.tensordot(x, tf.cast(self.kernel, x.dtype), 1)
        return y if self.bias is None else y + tf.cast(self.bias, x.dtype)


class Conv2D(Module):
    """A 2-D convolution, NHWC, by `kernels.conv2d`.

    Args:
      inputs: channels of x.
      filters: channels of y.
      size: height and width of the window.
      name: of the layer; its variables are `name/kernel` [size, size, inputs, filters] and
        `name/bias` [filters].
      seed: of the initial kernel, normal with variance 2 / (size * size * inputs).
      strides: of the window.
      padding: "SAME" or "VALID".
      bias: whether there is one.
      dtype: of the variables.

    Raises:
      ValueError: if a size is below 1.
    """

    def __init__(
        self,
        inputs: int,
        filters: int,
        size: int,
        *,
        name: str,
        seed: int,
        strides: int = 1,
        padding: kernels.Padding = "SAME",
        bias: bool = True,
        dtype: Any = tf.float32,
    ) -> None:
        _positive(f"Conv2D {name!r}", inputs=inputs, filters=filters, size=size, strides=strides)
        deviation = math.sqrt(2.0 / (size * size * inputs))
        shape = (size, size, inputs, filters)
        self.kernel = _drawn(
            shape, name=f"{name}/kernel", seed=seed, deviation=deviation, dtype=dtype
        )
        self.bias = (
            _filled(0.0, filters, name=f"{name}/bias", dtype=dtype, trainable=True)
            if bias
            else None
        )
        self.strides = strides
        self.padding = padding

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, inputs] -> [B, H', W', filters], in x's dtype."""
        kernel = tf.cast(self.kernel, x.dtype)
        y = kernels.conv2d(x, kernel, strides=self.strides, padding=self.padding)
        return y if self.bias is None else y + tf.cast(self.bias, x.dtype)


class BatchNorm(Module):
    """Batch normalisation with moving statistics, by `kernels.batch_norm_training`.

    The statistics wait for the finite decision of the step: one that is skipped leaves them as they
    were, and so does a fully masked batch. With several replicas, or micro-batches, the mean over
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
        any number of replicas, which costs one replica the fused operation; see BUILD_NOTES.md.
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
        _positive(f"BatchNorm {name!r}", channels=channels)
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"BatchNorm {name!r}: momentum must be in [0, 1], got {momentum}")

        def variable(suffix: str, value: float, trainable: bool) -> tf.Variable:
            return _filled(
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
        # On one replica too: its moments are then those of several, to the bit. XLA keeps its own
        # form, since under replicas it compiles no collective.
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


class Dropout:
    """Sets a random share of the elements to zero and scales the rest up.

    Which ones follows from (seed, name, global step, position in the global batch, element): the
    same on any number of replicas, and again after a resume.

    Args:
      rate: the share dropped, in [0, 1).
      name: names the stream of random numbers; two layers with one name drop the same.

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


class LayerNorm(Module):
    """Layer normalisation over the last axis, by `kernels.layer_norm`.

    Args:
      size: of the last axis.
      name: of the layer; its variables are `name/scale` and `name/offset`, [size].
      epsilon: added to the variance.
      dtype: of the variables.

    Raises:
      ValueError: if size is below 1.
    """

    def __init__(
        self, size: int, *, name: str, epsilon: float = 1e-6, dtype: Any = tf.float32
    ) -> None:
        _positive(f"LayerNorm {name!r}", size=size)
        self.scale = _filled(1.0, size, name=f"{name}/scale", dtype=dtype, trainable=True)
        self.offset = _filled(0.0, size, name=f"{name}/offset", dtype=dtype, trainable=True)
        self.epsilon = epsilon

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """[..., size] -> the same shape and dtype."""
        return kernels.layer_norm(x, self.scale, self.offset, epsilon=self.epsilon)


class Embedding(Module):
    """Rows of a table by integer id, by `kernels.embedding_lookup`; its gradient is IndexedSlices.

    Args:
      rows: of the table.
      width: of a row.
      name: of the layer; its variable is `name/table` [rows, width].
      seed: of the initial table, normal with standard deviation `deviation`.
      deviation: see seed.
      dtype: of the table.

    Raises:
      ValueError: if a size is below 1.
    """

    def __init__(
        self,
        rows: int,
        width: int,
        *,
        name: str,
        seed: int,
        deviation: float = 0.02,
        dtype: Any = tf.float32,
    ) -> None:
        _positive(f"Embedding {name!r}", rows=rows, width=width)
        shape = (rows, width)
        self.table = _drawn(
            shape, name=f"{name}/table", seed=seed, deviation=deviation, dtype=dtype
        )

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        """Integer [...] -> [..., width]; an id outside [0, rows) gives a row of NaN."""
        return kernels.embedding_lookup(self.table, ids)
