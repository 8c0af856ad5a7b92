"""What the kernels are measured on, and what against: TensorFlow's plain forms, Keras's layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import kernels
from kernels import random

Shape = tuple[int, ...]
Function = Callable[..., tf.Tensor]
Compiler = Literal["graph", "xla"]
Direction = Literal["", "forward", "forward+backward"]

COMPILERS: tuple[Compiler, ...] = ("graph", "xla")
BOTH: tuple[Direction, ...] = ("forward", "forward+backward")
FLOAT32, TWO_DTYPES = (tf.float32,), (tf.float32, tf.bfloat16)


class Form(NamedTuple):
    """One way to compute a case."""

    call: Function  # inputs -> output
    variables: Sequence[Any] = ()  # what it trains besides the inputs, for the backward pass
    # how it always runs, "host" without compilation; None for the target measured
    runs_as: Compiler | Literal["host"] | None = None


class Built(NamedTuple):
    """A case with its tensors and layers made."""

    inputs: list[tf.Tensor]  # what every form is called with
    differentiable: int  # how many of the inputs, from the first, the backward pass is taken to
    ours: Form  # our form
    references: Mapping[str, Form]  # name -> another's form
    missing: Sequence[str] = ()  # a line for each reference that cannot run here


class Case(NamedTuple):
    """One kernel at one shape."""

    kernel: str  # its name
    shape: Shape  # of its main input
    build: Callable[[Shape, tf.DType], Built]  # makes it in a dtype
    # what is timed; "" for a call without gradients that has no other direction
    directions: tuple[Direction, ...] = BOTH
    dtypes: tuple[tf.DType, ...] = FLOAT32  # what it is timed in; `--quick` takes the first
    quick: bool | Shape = False  # whether `--quick` has it, or the shape at which it has it
    # whether XLA runs it inside a loop, as a training call does. Convolutions and pooling are
    # another program there
    in_loop: bool = False
    compilers: tuple[Compiler, ...] = COMPILERS  # the targets
    turns: int = 1  # how often one call of a form computes it; times are of one turn


def _normal(shape: Shape, dtype: tf.DType, seed: int = 0) -> tf.Tensor:
    """Normal values with mean 1: nothing cancels by symmetry."""
    values = np.random.default_rng(seed).standard_normal(shape) + 1.0
    return tf.cast(tf.constant(values, tf.float32), dtype)


def _simple(
    ours: Function,
    references: Mapping[str, Function],
    second: Callable[[Shape, tf.DType], tf.Tensor] | None = None,
    *,
    differentiable: int = 1,
) -> Callable[[Shape, tf.DType], Built]:
    """A case of functions without variables: of a normal input, and of a second where it says."""

    def build(shape: Shape, dtype: tf.DType) -> Built:
        inputs = [_normal(shape, dtype), *([second(shape, dtype)] if second else [])]
        forms = {name: Form(call) for name, call in references.items()}
        return Built(inputs, differentiable, Form(ours), forms)

    return build


def _labels(shape: Shape, _: tf.DType) -> tf.Tensor:
    return tf.constant(np.random.default_rng(1).integers(0, shape[1], shape[0]), tf.int32)


def _keras_layer(name: str, shape: Shape, dtype: tf.DType, **call: Any) -> tuple[Any, list[Any]]:
    """A built layer as a function, and the tf.Variables that it trains."""
    layer = getattr(keras.layers, name)(dtype=dtype.name)
    layer.build(shape)
    variables = [variable.value for variable in layer.trainable_variables]
    return lambda x: layer(x, **call), variables


def _affine(shape: Shape) -> list[tf.Variable]:
    """Scale and offset."""
    return [tf.Variable(tf.ones(shape[-1])), tf.Variable(tf.zeros(shape[-1]))]


def _normalized(x: tf.Tensor, moments: Any, scale: tf.Variable, offset: tf.Variable) -> tf.Tensor:
    parameters = (tf.cast(offset, x.dtype), tf.cast(scale, x.dtype))
    return tf.nn.batch_normalization(x, *moments, *parameters, 1e-3)


def _batch_norm_relu(shape: Shape, dtype: tf.DType) -> Built:
    affine, moving = _affine(shape), _affine(shape)[::-1]
    layer, trained = _keras_layer("BatchNormalization", shape, dtype, training=True)

    def move(moments: Sequence[tf.Tensor]) -> None:
        for variable, value in zip(moving, moments, strict=True):
            variable.assign_add(0.01 * (tf.cast(value, tf.float32) - variable))

    def ours(x: tf.Tensor) -> tf.Tensor:
        y, moments = kernels.batch_norm_training(x, *affine, relu=True)
        move((moments.mean, moments.variance))
        return y

    def plain(x: tf.Tensor) -> tf.Tensor:
        moments = tf.nn.moments(x, list(range(len(shape) - 1)))
        move(moments)
        return tf.nn.relu(_normalized(x, moments, *affine))

    references = {
        "tf.nn.moments + batch_normalization + relu": Form(plain, affine),
        "keras.BatchNormalization + relu": Form(lambda x: keras.ops.relu(layer(x)), trained),
    }
    return Built([_normal(shape, dtype)], 1, Form(ours, affine), references)


def _layer_norm(shape: Shape, dtype: tf.DType) -> Built:
    affine = _affine(shape)

    def plain(x: tf.Tensor) -> tf.Tensor:
        return _normalized(x, tf.nn.moments(x, [-1], keepdims=True), *affine)

    ours = Form(lambda x: kernels.layer_norm(x, *affine, epsilon=1e-3), affine)
    by_keras = Form(*_keras_layer("LayerNormalization", shape, dtype))
    references = {"tf.nn.moments + batch_normalization": Form(plain, affine)}
    references["keras.LayerNormalization"] = by_keras
    return Built([_normal(shape, dtype)], 1, ours, references)


def _rms_norm(shape: Shape, dtype: tf.DType) -> Built:
    scale, _ = _affine(shape)
    references = {"keras.RMSNormalization": Form(*_keras_layer("RMSNormalization", shape, dtype))}
    ours = Form(lambda x: kernels.rms_norm(x, scale), [scale])
    return Built([_normal(shape, dtype)], 1, ours, references)


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
    layer = keras.layers.Dropout(1 - keep, dtype=dtype.name)

    def ours(x: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        kept = random.bernoulli_mask(1, "a", step, tf.range(shape[0]), shape[1:], keep=keep)
        return tf.where(kept, x * tf.cast(1 / keep, x.dtype), tf.zeros([], x.dtype))

    def plain(x: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        seed = tf.stack([tf.ones([], tf.int64), step])
        return tf.nn.experimental.stateless_dropout(x, 1 - keep, seed, rng_alg="auto_select")

    references = {
        "tf.nn.experimental.stateless_dropout": Form(plain),
        "keras.Dropout": Form(lambda x, _: layer(x, training=True)),
    }
    inputs = [_normal(shape, dtype), tf.constant(7, tf.int64)]
    return Built(inputs, 1, Form(ours), references)


def _causal_attention(shape: Shape, dtype: tf.DType) -> Built:
    """From [B, tokens, heads, width], as a model's dense layers give it, and back to it."""
    _, tokens, _, width = shape
    visible = np.tril(np.ones((tokens, tokens), bool))

    def heads_first(function: Function) -> Form:
        def call(*inputs: tf.Tensor) -> tf.Tensor:
            y = function(*(tf.transpose(t, [0, 2, 1, 3]) for t in inputs))
            return tf.transpose(y, [0, 2, 1, 3])

        return Form(call)

    def plain(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        scores = tf.matmul(q, k, transpose_b=True) * (1 / math.sqrt(width))
        scores = tf.where(visible, scores, tf.constant(-1e9, scores.dtype))
        return tf.matmul(tf.nn.softmax(scores), v)

    def by_keras(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        return keras.ops.dot_product_attention(q, k, v, is_causal=True)

    inputs = [_normal(shape, dtype, seed) for seed in range(3)]
    references = {
        "matmul + softmax": heads_first(plain),
        "keras.dot_product_attention": Form(by_keras),
    }
    return Built(inputs, 3, heads_first(kernels.causal_attention), references)


_max_pool = _simple(
    lambda x: kernels.max_pool2d(x, 2),
    {"tf.nn.max_pool2d": lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID")},
)
_avg_pool = _simple(
    lambda x: kernels.avg_pool2d(x, 2),
    {"tf.nn.avg_pool2d": lambda x: tf.nn.avg_pool2d(x, 2, 2, "VALID")},
)
_conv2d = _simple(
    lambda x, k: kernels.conv2d(x, k),
    {"tf.nn.conv2d": lambda x, k: tf.nn.conv2d(x, k, 1, "SAME")},
    lambda shape, dtype: _normal((3, 3, shape[-1], 2 * shape[-1]), dtype, 1),
    differentiable=2,
)
_depthwise_conv2d = _simple(
    lambda x, k: kernels.depthwise_conv2d(x, k),
    {"tf.nn.depthwise_conv2d": lambda x, k: tf.nn.depthwise_conv2d(x, k, [1] * 4, "SAME")},
    lambda shape, dtype: _normal((3, 3, shape[-1], 1), dtype, 1),
    differentiable=2,
)
_gelu = _simple(
    lambda x: kernels.gelu(x, approximate=True),
    {"tf.nn.gelu": lambda x: tf.nn.gelu(x, approximate=True)},
)
_softmax_cross_entropy = _simple(
    lambda x, y: kernels.softmax_cross_entropy(y, x),
    {
        "tf.nn.sparse_softmax_cross_entropy_with_logits": lambda x, y: (
            tf.nn.sparse_softmax_cross_entropy_with_logits(y, x)
        ),
        "keras.sparse_categorical_crossentropy": lambda x, y: (
            keras.losses.sparse_categorical_crossentropy(y, x, from_logits=True)
        ),
    },
    _labels,
)
_sigmoid_focal = _simple(
    lambda x, y: kernels.sigmoid_focal(y, x),
    {
        "keras.binary_focal_crossentropy": lambda x, y: keras.losses.binary_focal_crossentropy(
            y, x, apply_class_balancing=True, from_logits=True
        )
    },
    lambda shape, dtype: tf.cast(_normal(shape, tf.float32, 1) > 1.0, dtype),
)
_huber = _simple(
    lambda x, y: kernels.huber(y, x),
    {"keras.huber": lambda x, y: keras.losses.huber(y, x)},
    lambda shape, dtype: _normal(shape, dtype, 1),
)
_IMAGES = (128, 28, 28, 32)
_FEATURES = (128, 14, 14, 32)

CASES: tuple[Case, ...] = (
    Case("batch_norm_relu", _IMAGES, _batch_norm_relu, dtypes=TWO_DTYPES, quick=True),
    Case("batch_norm_relu", (128, 512), _batch_norm_relu, quick=True),
    Case("max_pool2d", _IMAGES, _max_pool, quick=True, in_loop=True),
    Case("avg_pool2d", _IMAGES, _avg_pool, in_loop=True),
    Case("conv2d", _FEATURES, _conv2d, dtypes=TWO_DTYPES, quick=True, in_loop=True),
    Case("depthwise_conv2d", _FEATURES, _depthwise_conv2d, in_loop=True),
    Case("random.uniform", (128, 784), _random_uniform, ("forward",), quick=True),
    Case("dropout", (128, 512), _dropout, quick=True),
    Case("softmax_cross_entropy", (128, 10), _softmax_cross_entropy),
    Case("softmax_cross_entropy", (1024, 256), _softmax_cross_entropy, quick=True),
    Case("sigmoid_focal", (1024, 256), _sigmoid_focal),
    Case("huber", (1024, 256), _huber),
    Case("layer_norm", (1024, 128), _layer_norm, dtypes=TWO_DTYPES, quick=True),
    Case("rms_norm", (1024, 128), _rms_norm),
    Case("gelu", (1024, 512), _gelu),
    Case("causal_attention", (16, 64, 4, 32), _causal_attention, quick=True),
)
