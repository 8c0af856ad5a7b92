"""What the kernels are measured on, and what against: TensorFlow's plain forms, Keras's layers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

import kernels
from kernels import random

Shape = tuple[int, ...]
Function = Callable[..., tf.Tensor]
Compiler = Literal["graph", "xla"]
Direction = Literal["forward", "forward+backward"]

COMPILERS: tuple[Compiler, ...] = ("graph", "xla")
BOTH: tuple[Direction, ...] = ("forward", "forward+backward")


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to compute a case.

    Attributes:
      call: inputs -> output.
      variables: what it trains besides the inputs, for the backward pass.
      compilers: those that can run it.
    """

    call: Function
    variables: Sequence[Any] = ()
    compilers: tuple[Compiler, ...] = COMPILERS


@dataclasses.dataclass(frozen=True)
class Built:
    """A case with its tensors and layers made.

    Attributes:
      inputs: what every form is called with.
      differentiable: how many of the inputs, from the first, the backward pass is taken to.
      ours: our form.
      references: name -> another's form.
    """

    inputs: list[tf.Tensor]
    differentiable: int
    ours: Form
    references: Mapping[str, Form]


@dataclasses.dataclass(frozen=True)
class Case:
    """One kernel at one shape.

    Attributes:
      kernel: its name.
      shape: of its main input.
      build: makes it in a dtype.
      directions: what is timed.
      dtypes: what it is timed in; `--quick` takes the first.
      quick: whether `--quick` has it.
      in_loop: whether XLA runs it inside a loop, as a training call does. Convolutions and
        pooling are another program there.
    """

    kernel: str
    shape: Shape
    build: Callable[[Shape, tf.DType], Built]
    directions: tuple[Direction, ...] = BOTH
    dtypes: tuple[tf.DType, ...] = (tf.float32,)
    quick: bool = False
    in_loop: bool = False


def _normal(shape: Shape, dtype: tf.DType, seed: int = 0) -> tf.Tensor:
    """Normal values with mean 1: nothing cancels by symmetry."""
    values = np.random.default_rng(seed).standard_normal(shape) + 1.0
    return tf.cast(tf.constant(values, tf.float32), dtype)


def _batch_norm_relu(shape: Shape, dtype: tf.DType) -> Built:
    size = shape[-1]
    scale, offset = tf.Variable(tf.ones(size)), tf.Variable(tf.zeros(size))
    moving = tf.Variable(tf.zeros(size)), tf.Variable(tf.ones(size))

    def move(mean: tf.Tensor, variance: tf.Tensor) -> None:
        for variable, value in zip(moving, (mean, variance), strict=True):
            variable.assign_add(0.01 * (tf.cast(value, tf.float32) - variable))

    def ours(x: tf.Tensor) -> tf.Tensor:
        y, moments = kernels.batch_norm_training(x, scale, offset, relu=True)
        move(moments.mean, moments.variance)
        return y

    def plain(x: tf.Tensor) -> tf.Tensor:
        mean, variance = tf.nn.moments(x, list(range(len(shape) - 1)))
        move(mean, variance)
        parameters = (tf.cast(offset, x.dtype), tf.cast(scale, x.dtype))
        return tf.nn.relu(tf.nn.batch_normalization(x, mean, variance, *parameters, 1e-3))

    layer = keras.layers.BatchNormalization(dtype=dtype.name)
    layer.build(shape)

    def by_keras(x: tf.Tensor) -> tf.Tensor:
        return keras.ops.relu(layer(x, training=True))

    references = {
        "tf.nn.moments + batch_normalization + relu": Form(plain, [scale, offset]),
        "keras.BatchNormalization + relu": Form(by_keras, _values(layer)),
    }
    return Built([_normal(shape, dtype)], 1, Form(ours, [scale, offset]), references)


def _values(layer: Any) -> list[Any]:
    """The tf.Variables behind a Keras layer's trainable ones."""
    return [variable.value for variable in layer.trainable_variables]


def _max_pool(shape: Shape, dtype: tf.DType) -> Built:
    ours = Form(lambda x: kernels.max_pool2d(x, 2))
    plain = Form(lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID"))
    return Built([_normal(shape, dtype)], 1, ours, {"tf.nn.max_pool2d": plain})


def _avg_pool(shape: Shape, dtype: tf.DType) -> Built:
    ours = Form(lambda x: kernels.avg_pool2d(x, 2))
    plain = Form(lambda x: tf.nn.avg_pool2d(x, 2, 2, "VALID"))
    return Built([_normal(shape, dtype)], 1, ours, {"tf.nn.avg_pool2d": plain})


def _conv2d(shape: Shape, dtype: tf.DType) -> Built:
    kernel = _normal((3, 3, shape[-1], 2 * shape[-1]), dtype, 1)
    ours = Form(lambda x, k: kernels.conv2d(x, k))
    plain = Form(lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"))
    return Built([_normal(shape, dtype), kernel], 2, ours, {"tf.nn.conv2d": plain})


def _depthwise_conv2d(shape: Shape, dtype: tf.DType) -> Built:
    kernel = _normal((3, 3, shape[-1], 1), dtype, 1)
    ours = Form(lambda x, k: kernels.depthwise_conv2d(x, k))
    plain = Form(lambda x, k: tf.nn.depthwise_conv2d(x, k, [1, 1, 1, 1], "SAME"))
    return Built([_normal(shape, dtype), kernel], 2, ours, {"tf.nn.depthwise_conv2d": plain})


def _random_uniform(shape: Shape, dtype: tf.DType) -> Built:
    def ours(step: tf.Tensor) -> tf.Tensor:
        return random.uniform(1, "a", step, tf.range(shape[0]), shape[1:], dtype=dtype)

    def plain(step: tf.Tensor) -> tf.Tensor:
        seed = tf.stack([tf.ones([], tf.int64), step])
        return tf.random.stateless_uniform(shape, seed, dtype=dtype)

    step = tf.constant(7, tf.int64)
    return Built([step], 0, Form(ours), {"tf.random.stateless_uniform": Form(plain)})


def _dropout(shape: Shape, dtype: tf.DType) -> Built:
    keep = 0.9

    def ours(x: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        kept = random.bernoulli_mask(1, "a", step, tf.range(shape[0]), shape[1:], keep=keep)
        return tf.where(kept, x * tf.cast(1 / keep, x.dtype), tf.zeros([], x.dtype))

    def plain(x: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        seed = tf.stack([tf.ones([], tf.int64), step])
        return tf.nn.experimental.stateless_dropout(x, 1 - keep, seed, rng_alg="auto_select")

    layer = keras.layers.Dropout(1 - keep, dtype=dtype.name)
    references = {
        "tf.nn.experimental.stateless_dropout": Form(plain),
        "keras.Dropout": Form(lambda x, _: layer(x, training=True)),
    }
    inputs = [_normal(shape, dtype), tf.constant(7, tf.int64)]
    return Built(inputs, 1, Form(ours), references)


def _softmax_cross_entropy(shape: Shape, dtype: tf.DType) -> Built:
    labels = tf.constant(np.random.default_rng(1).integers(0, shape[1], shape[0]), tf.int32)
    ours = Form(lambda logits, y: kernels.softmax_cross_entropy(y, logits))
    plain = Form(lambda logits, y: tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
    by_keras = Form(
        lambda logits, y: keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
    )
    references = {
        "tf.nn.sparse_softmax_cross_entropy_with_logits": plain,
        "keras.sparse_categorical_crossentropy": by_keras,
    }
    return Built([_normal(shape, dtype), labels], 1, ours, references)


def _sigmoid_focal(shape: Shape, dtype: tf.DType) -> Built:
    labels = tf.cast(_normal(shape, tf.float32, 1) > 1.0, dtype)
    ours = Form(lambda logits, y: kernels.sigmoid_focal(y, logits))
    by_keras = Form(
        lambda logits, y: keras.losses.binary_focal_crossentropy(
            y, logits, apply_class_balancing=True, from_logits=True
        )
    )
    references = {"keras.binary_focal_crossentropy": by_keras}
    return Built([_normal(shape, dtype), labels], 1, ours, references)


def _huber(shape: Shape, dtype: tf.DType) -> Built:
    targets = _normal(shape, dtype, 1)
    ours = Form(lambda predictions, y: kernels.huber(y, predictions))
    by_keras = Form(lambda predictions, y: keras.losses.huber(y, predictions))
    return Built([_normal(shape, dtype), targets], 1, ours, {"keras.huber": by_keras})


def _layer_norm(shape: Shape, dtype: tf.DType) -> Built:
    scale, offset = tf.Variable(tf.ones(shape[-1])), tf.Variable(tf.zeros(shape[-1]))
    ours = Form(lambda x: kernels.layer_norm(x, scale, offset, epsilon=1e-3), [scale, offset])

    def plain(x: tf.Tensor) -> tf.Tensor:
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        parameters = (tf.cast(offset, x.dtype), tf.cast(scale, x.dtype))
        return tf.nn.batch_normalization(x, mean, variance, *parameters, 1e-3)

    layer = keras.layers.LayerNormalization(dtype=dtype.name)
    layer.build(shape)
    references = {
        "tf.nn.moments + batch_normalization": Form(plain, [scale, offset]),
        "keras.LayerNormalization": Form(lambda x: layer(x), _values(layer)),
    }
    return Built([_normal(shape, dtype)], 1, ours, references)


def _rms_norm(shape: Shape, dtype: tf.DType) -> Built:
    scale = tf.Variable(tf.ones(shape[-1]))
    layer = keras.layers.RMSNormalization(dtype=dtype.name)
    layer.build(shape)
    ours = Form(lambda x: kernels.rms_norm(x, scale), [scale])
    references = {"keras.RMSNormalization": Form(lambda x: layer(x), _values(layer))}
    return Built([_normal(shape, dtype)], 1, ours, references)


def _gelu(shape: Shape, dtype: tf.DType) -> Built:
    ours = Form(lambda x: kernels.gelu(x, approximate=True))
    plain = Form(lambda x: tf.nn.gelu(x, approximate=True))
    return Built([_normal(shape, dtype)], 1, ours, {"tf.nn.gelu": plain})


def _causal_attention(shape: Shape, dtype: tf.DType) -> Built:
    """From [B, tokens, heads, width], as a model's dense layers give it, and back to it."""
    _, tokens, _, width = shape
    visible = np.tril(np.ones((tokens, tokens), bool))

    def heads_first(function: Function) -> Function:
        def call(*inputs: tf.Tensor) -> tf.Tensor:
            y = function(*(tf.transpose(t, [0, 2, 1, 3]) for t in inputs))
            return tf.transpose(y, [0, 2, 1, 3])

        return call

    def plain(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        scores = tf.matmul(q, k, transpose_b=True) * (1 / math.sqrt(width))
        scores = tf.where(visible, scores, tf.constant(-1e9, scores.dtype))
        return tf.matmul(tf.nn.softmax(scores), v)

    def by_keras(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        return keras.ops.dot_product_attention(q, k, v, is_causal=True)

    inputs = [_normal(shape, dtype, seed) for seed in range(3)]
    references = {
        "matmul + softmax": Form(heads_first(plain)),
        "keras.dot_product_attention": Form(by_keras),
    }
    ours = heads_first(lambda q, k, v: kernels.causal_attention(q, k, v))
    return Built(inputs, 3, Form(ours), references)


CASES: tuple[Case, ...] = (
    Case(
        "batch_norm_relu",
        (128, 28, 28, 32),
        _batch_norm_relu,
        dtypes=(tf.float32, tf.bfloat16),
        quick=True,
    ),
    Case("batch_norm_relu", (128, 512), _batch_norm_relu, quick=True),
    Case("max_pool2d", (128, 28, 28, 32), _max_pool, quick=True, in_loop=True),
    Case("avg_pool2d", (128, 28, 28, 32), _avg_pool, in_loop=True),
    Case(
        "conv2d",
        (128, 14, 14, 32),
        _conv2d,
        dtypes=(tf.float32, tf.bfloat16),
        quick=True,
        in_loop=True,
    ),
    Case("depthwise_conv2d", (128, 14, 14, 32), _depthwise_conv2d, in_loop=True),
    Case("random.uniform", (128, 784), _random_uniform, ("forward",), quick=True),
    Case("dropout", (128, 512), _dropout, quick=True),
    Case("softmax_cross_entropy", (128, 10), _softmax_cross_entropy),
    Case("softmax_cross_entropy", (1024, 256), _softmax_cross_entropy, quick=True),
    Case("sigmoid_focal", (1024, 256), _sigmoid_focal),
    Case("huber", (1024, 256), _huber),
    Case("layer_norm", (1024, 128), _layer_norm, dtypes=(tf.float32, tf.bfloat16), quick=True),
    Case("rms_norm", (1024, 128), _rms_norm),
    Case("gelu", (1024, 512), _gelu),
    Case("causal_attention", (16, 64, 4, 32), _causal_attention, quick=True),
)
