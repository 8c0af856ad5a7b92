"""The race's models as a Keras user's layers, for Keras 3 and for tf_keras (Orbit's)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from experiments.benchmark import workloads
from experiments.benchmark.contenders import models
from experiments.benchmark.contenders.models import Operations

# `keras` below is either module: both have the same layers API.


def _operations(keras: Any, weights: dict[str, workloads.Array]) -> Operations:
    """Each makes a layer and applies it; a layer's name is that of its weights, "/" being "_"."""
    t, layers = workloads.TRANSFORMER, keras.layers

    class Positions(layers.Layer):  # type: ignore[name-defined, misc, unused-ignore]
        def build(self, _: Any) -> None:
            self.table = self.add_weight(name="table", shape=(t.tokens, t.width))

        def call(self, x: Any) -> Any:
            return x + self.table

    def dense(layer: str, x: Any) -> Any:
        width, bias = weights[f"{layer}/kernel"].shape[-1], f"{layer}/bias" in weights
        return layers.Dense(width, use_bias=bias, name=layer.replace("/", "_"))(x)

    def convolve(i: int, x: Any, stride: int) -> Any:
        filters, name = weights[f"conv{i}/kernel"].shape[-1], f"conv{i}"
        return layers.Conv2D(filters, 3, stride, padding="same", use_bias=False, name=name)(x)

    def batch_norm(i: int, x: Any, relu: bool) -> Any:
        momentum, epsilon = workloads.BATCH_NORM_MOMENTUM, workloads.BATCH_NORM_EPSILON
        y = layers.BatchNormalization(momentum=momentum, epsilon=epsilon, name=f"bn{i}")(x)
        return layers.ReLU()(y) if relu else y

    def shorten(x: Any, pad: int) -> Any:
        def shortened(value: Any) -> Any:
            return tf.pad(value[:, ::2, ::2], [[0, 0], [0, 0], [0, 0], [pad, pad]])

        shape = (x.shape[1] // 2, x.shape[2] // 2, x.shape[3] + 2 * pad)
        return layers.Lambda(shortened, output_shape=shape)(x)

    def look_up(layer: str, ids: Any) -> Any:
        return layers.Embedding(*weights[f"{layer}/table"].shape, name=layer)(ids)

    def layer_norm(layer: str, x: Any) -> Any:
        epsilon = workloads.LAYER_NORM_EPSILON
        return layers.LayerNormalization(epsilon=epsilon, name=layer.replace("/", "_"))(x)

    def attend(layer: str, x: Any) -> Any:
        attention = layers.MultiHeadAttention(
            t.heads, t.width // t.heads, use_bias=False, name=f"{layer}_attention"
        )
        return attention(x, x, use_causal_mask=True)

    return Operations(
        dense=lambda layer, x: x if layer.endswith("/project") else dense(layer, x),
        convolve=convolve,
        batch_norm=batch_norm,
        relu=lambda x: layers.ReLU()(x),
        pool_and_relu=lambda x: layers.MaxPooling2D(2)(layers.ReLU()(x)),
        flatten=lambda x: layers.Flatten()(x),
        mean=lambda x: layers.GlobalAveragePooling2D()(x),
        shorten=shorten,
        embed=lambda tokens: Positions(name="position")(look_up("token", tokens)),
        layer_norm=layer_norm,
        attend=attend,  # its layer has the last product, "project", too
        gelu=layers.Activation(lambda v: keras.activations.gelu(v, approximate=True)),
        mean_row=lambda ids: layers.GlobalAveragePooling1D()(look_up("rows", ids)),
    )


def build(keras: Any, workload: workloads.Workload) -> Any:
    """A built Keras model with the race's initial weights; `keras` may be `tf_keras`."""
    t, weights = workloads.TRANSFORMER, workloads.initial_weights(workload)
    dtype = "int32" if workload.family in ("transformer", "embedding") else None
    inputs = keras.Input(workload.example_shape, dtype=dtype)
    model = keras.Model(inputs, models.logits(workload, _operations(keras, weights), inputs))
    values: dict[str, list[workloads.Array]] = {}
    for name, value in weights.items():
        layer = name.replace("/", "_").rpartition("_")[0]
        prefix, _, kind = layer.rpartition("_")
        if kind in ("query", "key", "value"):
            layer, value = f"{prefix}_attention", value.reshape(t.width, t.heads, -1)
        elif kind == "project":
            layer, value = f"{prefix}_attention", value.reshape(t.heads, -1, t.width)
        values.setdefault(layer, []).append(value)
    for layer, own in values.items():
        statistics = model.get_layer(layer).get_weights()[len(own) :]
        model.get_layer(layer).set_weights(own + statistics)
    return model


def optimizer(keras: Any, *, clip: bool) -> Any:
    """Adam with the race's schedule; clips to the global norm itself if `clip`."""
    schedule = keras.optimizers.schedules.ExponentialDecay(
        workloads.LEARNING_RATE, workloads.DECAY_STEPS, workloads.DECAY_RATE
    )
    betas = {"beta_1": workloads.BETA_1, "beta_2": workloads.BETA_2}
    norm = workloads.CLIP_NORM if clip else None
    return keras.optimizers.Adam(schedule, **betas, epsilon=workloads.EPSILON, global_clipnorm=norm)


def mirrored_strategy(replicas: int = 2) -> tf.distribute.Strategy:
    """MirroredStrategy on virtual CPUs; before TensorFlow has started."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration() for _ in range(replicas)]
    tf.config.set_logical_device_configuration(cpu, parts)
    return tf.distribute.MirroredStrategy([f"/cpu:{i}" for i in range(replicas)])


def dataset(workload: workloads.Workload) -> tf.data.Dataset:
    """Endless batches in the race's order, prefetched."""
    batches = tf.data.Dataset.from_tensor_slices(workloads.examples(workload))
    batches = batches.batch(workload.batch, drop_remainder=True).cache().repeat()
    return batches.prefetch(tf.data.AUTOTUNE)
