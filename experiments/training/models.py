"""The models of the experiments: functions of images in [0, 1], to logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import tensorflow as tf

import kernels
import loop
from experiments.entry.errors import InputError
from loop import layers
from loop.keras import version
from loop.precision.policy import Precision
from loop.variables import name_of

# A run of a few hundred steps must leave the moving statistics' start behind.
_BATCH_NORM_MOMENTUM = 0.9


class Model(Protocol):
    """What training needs of a model."""

    @property
    def trainable_variables(self) -> Any:
        """The variables that gradients train, in a fixed order."""

    def __call__(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        """[B, H, W, C] -> logits [B, classes]."""


class InPrecision:
    """A model that computes in a precision, whatever dtype its images have; for evaluation.

    In training the step casts.
    """

    def __init__(self, model: Model, precision: Precision) -> None:
        self._model = model
        self._precision = precision

    @property
    def trainable_variables(self) -> Any:
        """The model's."""
        return self._model.trainable_variables

    def __call__(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        """[B, H, W, C] -> logits [B, classes]."""
        return self._model(self._precision.cast_tensor(images), training=training)


class _Classifier(loop.Module):
    """Makes the layers of one model with its seed, dtype and kind of BatchNorm."""

    logits: layers.Dense

    def __init__(self, *, seed: int, dtype: Any, synchronized: bool) -> None:
        self._seed = seed
        self._dtype = dtype
        self._synchronized = synchronized

    def _convolution(self, inputs: int, filters: int, name: str, **options: Any) -> layers.Conv2D:
        # No bias: a BatchNorm follows, whose offset takes its place.
        size = options.pop("size", 3)
        return layers.Conv2D(
            inputs,
            filters,
            size,
            name=name,
            seed=self._seed,
            bias=False,
            dtype=self._dtype,
            **options,
        )

    def _dense(self, inputs: int, units: int, name: str, **options: Any) -> layers.Dense:
        return layers.Dense(inputs, units, name=name, seed=self._seed, dtype=self._dtype, **options)

    def _batch_norm(self, channels: int, name: str, *, relu: bool = True) -> layers.BatchNorm:
        return layers.BatchNorm(
            channels,
            name=name,
            momentum=_BATCH_NORM_MOMENTUM,
            relu=relu,
            synchronized=self._synchronized,
            dtype=self._dtype,
        )


class Mlp(_Classifier):
    """Two hidden layers of 512 and 256 units, each with BatchNorm, ReLU and dropout."""

    def __init__(
        self, image_shape: tuple[int, int, int], classes: int, dropout: float, **common: Any
    ) -> None:
        super().__init__(**common)
        inputs = math.prod(image_shape)
        self.hidden1 = self._dense(inputs, 512, "hidden1", bias=False)
        self.norm1 = self._batch_norm(512, "norm1")
        self.dropout1 = layers.Dropout(dropout, name="dropout1")
        self.hidden2 = self._dense(512, 256, "hidden2", bias=False)
        self.norm2 = self._batch_norm(256, "norm2")
        self.dropout2 = layers.Dropout(dropout, name="dropout2")
        self.logits = self._dense(256, classes, "logits", gain=1.0)

    def __call__(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        """[B, H, W, C] -> logits [B, classes]."""
        x = tf.reshape(images, [-1, math.prod(images.shape[1:])])
        x = self.norm1(self.hidden1(x), training=training)
        x = self.dropout1(x, training=training)
        x = self.norm2(self.hidden2(x), training=training)
        x = self.dropout2(x, training=training)
        return self.logits(x)


class Cnn(_Classifier):
    """Two 3x3 convolutions of 32 and 64 filters, BatchNorm + ReLU and pooling after each."""

    def __init__(
        self, image_shape: tuple[int, int, int], classes: int, dropout: float, **common: Any
    ) -> None:
        super().__init__(**common)
        height, width, channels = image_shape
        self.convolution1 = self._convolution(channels, 32, "convolution1")
        self.norm1 = self._batch_norm(32, "norm1", relu=False)
        self.convolution2 = self._convolution(32, 64, "convolution2")
        self.norm2 = self._batch_norm(64, "norm2", relu=False)
        self.dropout = layers.Dropout(dropout, name="dropout")
        self.features = (height // 4) * (width // 4) * 64
        self.logits = self._dense(self.features, classes, "logits", gain=1.0)

    def __call__(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        """[B, H, W, C] -> logits [B, classes]."""
        # A maximum and a ReLU commute: behind the pooling the ReLU has a quarter of the elements.
        x = self.norm1(self.convolution1(images), training=training)
        x = tf.nn.relu(kernels.max_pool2d(x, 2))
        x = self.norm2(self.convolution2(x), training=training)
        x = tf.nn.relu(kernels.max_pool2d(x, 2))
        x = self.dropout(tf.reshape(x, [-1, self.features]), training=training)
        return self.logits(x)


class _ResidualBlock(loop.Module):
    """Two convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(
        self, make: _Classifier, inputs: int, filters: int, strides: int, name: str
    ) -> None:
        self.convolution1 = make._convolution(
            inputs, filters, f"{name}/convolution1", strides=strides
        )
        self.norm1 = make._batch_norm(filters, f"{name}/norm1")
        self.convolution2 = make._convolution(filters, filters, f"{name}/convolution2")
        self.norm2 = make._batch_norm(filters, f"{name}/norm2", relu=False)
        changes = strides != 1 or inputs != filters
        self.shortcut = (
            make._convolution(inputs, filters, f"{name}/shortcut", size=1, strides=strides)
            if changes
            else None
        )

    def __call__(self, x: tf.Tensor, *, training: bool) -> tf.Tensor:
        y = self.norm1(self.convolution1(x), training=training)
        y = self.norm2(self.convolution2(y), training=training)
        return tf.nn.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(_Classifier):
    """ResNet for 32x32 images, of 6n + 2 layers: 20 by default, 32 with `blocks=5`.

    Source: He et al. 2015, arXiv:1512.03385, section 4.2, with projection shortcuts.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        dropout: float,
        *,
        blocks: int = 3,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.convolution = self._convolution(image_shape[2], 16, "convolution")
        self.norm = self._batch_norm(16, "norm")
        self.blocks = []
        inputs = 16
        for stage, filters in enumerate((16, 32, 64)):
            for index in range(blocks):
                strides = 2 if stage and not index else 1
                name = f"stage{stage + 1}/block{index + 1}"
                self.blocks.append(_ResidualBlock(self, inputs, filters, strides, name))
                inputs = filters
        self.dropout = layers.Dropout(dropout, name="dropout")
        self.logits = self._dense(inputs, classes, "logits", gain=1.0)

    def __call__(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        """[B, H, W, C] -> logits [B, classes]."""
        x = self.norm(self.convolution(images), training=training)
        for block in self.blocks:
            x = block(x, training=training)
        x = self.dropout(tf.reduce_mean(x, [1, 2]), training=training)
        return self.logits(x)


def keras_cnn(
    image_shape: tuple[int, int, int], classes: int, dropout: float, *, seed: int, policy: str
) -> Any:
    """The layers of `Cnn` as a Keras model, to show that one works in the loop as it is.

    Raises:
      InputError: on a Keras that the loop does not know.
    """
    import keras

    try:
        version.check(keras)
    except version.UnsupportedKerasError as error:
        raise InputError(
            "--model=keras_cnn", expected=error.expected, found=error.found, mend=error.mend
        ) from error
    keras.utils.set_random_seed(seed % 2**32)
    options: dict[str, Any] = {"dtype": policy}

    def convolution(filters: int) -> list[Any]:
        return [
            keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, **options),
            keras.layers.BatchNormalization(momentum=_BATCH_NORM_MOMENTUM, **options),
            keras.layers.ReLU(**options),
            keras.layers.MaxPooling2D(2, **options),
        ]

    return keras.Sequential(
        [
            keras.Input(image_shape),
            *convolution(32),
            *convolution(64),
            keras.layers.Flatten(),
            keras.layers.Dropout(dropout, seed=0, **options),
            keras.layers.Dense(classes, **options),
        ],
        name="keras_cnn",
    )


def output_kernel(model: Any) -> str:
    """The name of the kernel of a model's last layer, which gives the logits."""
    layer = model.logits if isinstance(model, _Classifier) else model.layers[-1]
    return name_of(layer.kernel)


def make(
    name: str,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    dropout: float,
    seed: int,
    precision: Precision,
    synchronized: bool,
) -> Model:
    """A model by its name in `--model`.

    Args:
      name: "cnn", "mlp", "resnet" or "keras_cnn".
      image_shape: height, width, channels.
      classes: number of logits.
      dropout: share of units dropped before the logits (mlp: after each hidden layer).
      seed: of the initial weights.
      precision: its variables' dtype; of "keras_cnn" the policy of its layers.
      synchronized: whether BatchNorm takes its moments over all replicas.

    Raises:
      KeyError: on another name.
      InputError: on "keras_cnn" with a Keras that the loop does not know.
    """
    if name == "keras_cnn":
        model: Model = keras_cnn(image_shape, classes, dropout, seed=seed, policy=precision.name)
        return model
    common = {"seed": seed, "dtype": precision.variable_dtype}
    classes_of: dict[str, Callable[..., Model]] = {"cnn": Cnn, "mlp": Mlp, "resnet": ResNet}
    return classes_of[name](image_shape, classes, dropout, synchronized=synchronized, **common)
