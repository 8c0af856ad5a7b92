"""The race's models as a Keras user writes them, for Keras 3 and for tf_keras (Orbit's)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from experiments.benchmark import workloads

# `keras` below is either module: both have the same layers API.


def _batch_norm(keras: Any, index: int) -> Any:
    return keras.layers.BatchNormalization(
        momentum=workloads.BATCH_NORM_MOMENTUM,
        epsilon=workloads.BATCH_NORM_EPSILON,
        name=f"bn{index}",
    )


def _mlp(keras: Any, workload: workloads.Workload) -> Any:
    inputs = x = keras.Input(workload.example_shape)
    for i, width in enumerate(workload.widths[1:-1]):
        x = keras.layers.Dense(width, use_bias=False, name=f"dense{i}")(x)
        x = keras.layers.ReLU()(_batch_norm(keras, i)(x))
    return keras.Model(inputs, keras.layers.Dense(workload.widths[-1], name="head")(x))


def _cnn(keras: Any, workload: workloads.Workload) -> Any:
    inputs = x = keras.Input(workload.example_shape)
    for i, width in enumerate((32, 64)):
        x = keras.layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv{i}")(x)
        x = keras.layers.ReLU()(_batch_norm(keras, i)(x))
        x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(workloads.CLASSES, name="head")(x))


def _shortcut(keras: Any, x: Any, channels: int) -> Any:
    """Option A: every second pixel, and zeros for the channels that are new."""
    pad = (channels - x.shape[-1]) // 2
    shape = (x.shape[1] // 2, x.shape[2] // 2, channels)

    def shorten(value: Any) -> Any:
        return tf.pad(value[:, ::2, ::2], [[0, 0], [0, 0], [0, 0], [pad, pad]])

    return keras.layers.Lambda(shorten, output_shape=shape)(x)


def _resnet20(keras: Any, workload: workloads.Workload) -> Any:
    inputs = x = keras.Input(workload.example_shape)
    convolutions = workloads.resnet_convolutions()

    def convolve(i: int, x: Any) -> Any:
        _, width, stride = convolutions[i]
        x = keras.layers.Conv2D(width, 3, stride, padding="same", use_bias=False, name=f"conv{i}")(
            x
        )
        return _batch_norm(keras, i)(x)

    x = keras.layers.ReLU()(convolve(0, x))
    for i in range(1, len(convolutions), 2):
        residual = keras.layers.ReLU()(convolve(i, x))
        residual = convolve(i + 1, residual)
        shortcut = x if convolutions[i][2] == 1 else _shortcut(keras, x, convolutions[i][1])
        x = keras.layers.ReLU()(keras.layers.Add()([shortcut, residual]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(workloads.CLASSES, name="head")(x))


def _transformer(keras: Any, workload: workloads.Workload) -> Any:
    t, layers = workloads.TRANSFORMER, keras.layers

    def norm(name: str) -> Any:
        return layers.LayerNormalization(epsilon=workloads.LAYER_NORM_EPSILON, name=name)

    class Positions(layers.Layer):  # type: ignore[name-defined, misc, unused-ignore]
        def build(self, _: Any) -> None:
            self.table = self.add_weight(name="table", shape=(t.tokens, t.width))

        def call(self, x: Any) -> Any:
            return x + self.table

    inputs = keras.Input(workload.example_shape, dtype="int32")
    x = layers.Embedding(t.vocabulary, t.width, name="token")(inputs)
    x = Positions(name="position")(x)
    for i in range(t.layers):
        y = norm(f"layer{i}_norm0")(x)
        attention = layers.MultiHeadAttention(
            t.heads, t.width // t.heads, use_bias=False, name=f"layer{i}_attention"
        )
        x = layers.Add()([x, attention(y, y, use_causal_mask=True)])
        y = norm(f"layer{i}_norm1")(x)
        y = layers.Dense(t.hidden, use_bias=False, name=f"layer{i}_expand")(y)
        y = layers.Activation(lambda v: keras.activations.gelu(v, approximate=True))(y)
        y = layers.Dense(t.width, use_bias=False, name=f"layer{i}_contract")(y)
        x = layers.Add()([x, y])
    x = norm("norm")(x)
    return keras.Model(inputs, layers.Dense(t.vocabulary, use_bias=False, name="head")(x))


def _embedding(keras: Any, workload: workloads.Workload) -> Any:
    e = workloads.EMBEDDING
    inputs = keras.Input(workload.example_shape, dtype="int32")
    x = keras.layers.Embedding(e.rows, e.width, name="table")(inputs)
    x = keras.layers.GlobalAveragePooling1D()(x)
    x = keras.layers.Dense(e.hidden, activation="relu", name="dense0")(x)
    return keras.Model(inputs, keras.layers.Dense(workloads.CLASSES, name="head")(x))


_BUILDERS = {
    "mlp": _mlp,
    "cnn": _cnn,
    "resnet20": _resnet20,
    "transformer": _transformer,
    "embedding": _embedding,
}


def _set_transformer_weights(model: Any, weights: dict[str, workloads.Array]) -> None:
    t = workloads.TRANSFORMER
    split, joined = (t.width, t.heads, -1), (t.heads, -1, t.width)

    def put(layer: str, *names: str) -> None:
        model.get_layer(layer).set_weights([weights[name] for name in names])

    for name in ("token", "position"):
        put(name, name)
    for i in range(t.layers):
        for norm in ("norm0", "norm1"):
            put(f"layer{i}_{norm}", f"layer{i}/{norm}/scale", f"layer{i}/{norm}/bias")
        inputs = [weights[f"layer{i}/{n}"].reshape(split) for n in ("query", "key", "value")]
        output = weights[f"layer{i}/project"].reshape(joined)
        model.get_layer(f"layer{i}_attention").set_weights([*inputs, output])
        put(f"layer{i}_expand", f"layer{i}/expand")
        put(f"layer{i}_contract", f"layer{i}/contract")
    put("norm", "norm/scale", "norm/bias")
    put("head", "head/kernel")


def build(keras: Any, workload: workloads.Workload) -> Any:
    """A built Keras model with the race's initial weights.

    Args:
      keras: the `keras` or the `tf_keras` module.
      workload: which model.
    """
    model = _BUILDERS[workload.family](keras, workload)
    weights = workloads.initial_weights(workload)
    if workload.family == "transformer":
        _set_transformer_weights(model, weights)
        return model
    for layer in dict.fromkeys(name.split("/")[0] for name in weights):
        values = [value for name, value in weights.items() if name.split("/")[0] == layer]
        statistics = model.get_layer(layer).get_weights()[len(values) :]
        model.get_layer(layer).set_weights(values + statistics)
    return model


def optimizer(keras: Any, *, clip: bool) -> Any:
    """Adam with the race's schedule; clips to the global norm itself if `clip`."""
    schedule = keras.optimizers.schedules.ExponentialDecay(
        workloads.LEARNING_RATE, workloads.DECAY_STEPS, workloads.DECAY_RATE
    )
    return keras.optimizers.Adam(
        schedule,
        beta_1=workloads.BETA_1,
        beta_2=workloads.BETA_2,
        epsilon=workloads.EPSILON,
        global_clipnorm=workloads.CLIP_NORM if clip else None,
    )


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
