"""The race's workloads: shapes, initial weights and data, the same for every contender.

NumPy only, so that every environment can import it. All weights and examples follow from
one seed. What every contender computes:

- `tiny`, `mlp`: dense (no bias), BatchNorm, ReLU, ..., dense with bias; 784 inputs.
- `cnn`: conv 3x3x32 (SAME, no bias), BatchNorm, ReLU, max pool 2, conv 3x3x64 likewise, dense 10.
- `resnet20`: He et al. 2015 (arXiv 1512.03385), section 4.2, 20 layers, shortcuts of option A.
- `transformer`: byte level, pre-norm, causal, learned positions, GELU by tanh, no dropout, no bias.
- `embedding`: the mean of 8 rows of a table, dense 64 with ReLU, dense 10; sparse gradients.

BatchNorm: epsilon 1e-3, momentum 0.99. LayerNorm: epsilon 1e-5. Loss: mean softmax cross-entropy.
Update: gradients clipped to a global norm of 1, then Adam with an exponentially decaying rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]
Family = Literal["mlp", "cnn", "resnet20", "transformer", "embedding"]

BATCH_NORM_EPSILON = 1e-3
BATCH_NORM_MOMENTUM = 0.99
LAYER_NORM_EPSILON = 1e-5
LEARNING_RATE, DECAY_STEPS, DECAY_RATE = 1e-3, 1000, 0.96
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7
CLIP_NORM = 1.0
CLASSES = 10
DATA_BATCHES = 16


class Workload(NamedTuple):
    """One workload."""

    name: str  # as given to --workloads
    family: Family  # which model
    batch: int  # examples a step
    example_shape: tuple[int, ...]  # shape of one example's input
    steps_per_call: int  # steps a call, for the contenders that run several in one
    widths: tuple[int, ...] = ()  # of an MLP, input to output; empty elsewhere


class Transformer(NamedTuple):
    """The transformer's sizes."""

    layers: int = 2
    width: int = 128
    heads: int = 4
    tokens: int = 64
    vocabulary: int = 256
    hidden: int = 512


class Embedding(NamedTuple):
    """The embedding model's sizes."""

    rows: int = 1_000_000
    width: int = 32
    ids: int = 8
    hidden: int = 64


TRANSFORMER = Transformer()
EMBEDDING = Embedding()
RESNET_WIDTHS = (16, 32, 64)
RESNET_BLOCKS = 3

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("tiny", "mlp", 128, (784,), 64, (784, 64, 10)),
        Workload("mlp", "mlp", 128, (784,), 64, (784, 512, 256, 10)),
        Workload("cnn", "cnn", 128, (28, 28, 1), 8),
        Workload("resnet20", "resnet20", 128, (32, 32, 3), 2),
        Workload("transformer", "transformer", 16, (TRANSFORMER.tokens,), 16),
        Workload("embedding", "embedding", 1024, (EMBEDDING.ids,), 16),
    )
}


def resnet_convolutions() -> list[tuple[int, int, int]]:
    """ResNet-20's 3x3 convolutions in order: (input channels, output channels, stride)."""
    channels = RESNET_WIDTHS[0]
    convolutions = [(3, channels, 1)]
    for width in RESNET_WIDTHS:
        for block in range(RESNET_BLOCKS):
            stride = 2 if width != channels and block == 0 else 1
            convolutions += [(channels, width, stride), (width, width, 1)]
            channels = width
    return convolutions


def _transformer_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    t = TRANSFORMER
    yield "token/table", (t.vocabulary, t.width)
    yield "position/table", (t.tokens, t.width)
    for i in range(t.layers):
        yield from _pair(f"layer{i}/norm0", "scale", "bias", t.width)
        for name in ("query", "key", "value", "project"):
            yield f"layer{i}/{name}/kernel", (t.width, t.width)
        yield from _pair(f"layer{i}/norm1", "scale", "bias", t.width)
        yield f"layer{i}/expand/kernel", (t.width, t.hidden)
        yield f"layer{i}/contract/kernel", (t.hidden, t.width)
    yield from _pair("norm", "scale", "bias", t.width)
    yield "head/kernel", (t.width, t.vocabulary)


def _pair(layer: str, first: str, second: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{layer}/{first}", (width,)
    yield f"{layer}/{second}", (width,)


def _shapes(workload: Workload) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Layer/part and shape of each weight; dense kernels are [in, out], others [h, w, in, out]."""
    kernels: list[tuple[str, tuple[int, ...]]] = []
    if workload.family == "transformer":
        yield from _transformer_shapes()
        return
    if workload.family == "embedding":
        yield "rows/table", (EMBEDDING.rows, EMBEDDING.width)
        yield "dense0/kernel", (EMBEDDING.width, EMBEDDING.hidden)
        yield "dense0/bias", (EMBEDDING.hidden,)
        last = EMBEDDING.hidden
    elif workload.family == "mlp":
        *_, last, _ = workload.widths
        pairs = zip(workload.widths[:-2], workload.widths[1:-1], strict=True)
        kernels = [(f"dense{i}", pair) for i, pair in enumerate(pairs)]
    else:
        cnn = workload.family == "cnn"
        sizes = [(1, 32, 1), (32, 64, 1)] if cnn else resnet_convolutions()
        kernels = [(f"conv{i}", (3, 3, *size[:2])) for i, size in enumerate(sizes)]
        last = 7 * 7 * 64 if cnn else RESNET_WIDTHS[-1]
    for i, (name, shape) in enumerate(kernels):
        yield f"{name}/kernel", shape
        yield from _pair(f"bn{i}", "gamma", "beta", shape[-1])
    yield "head/kernel", (last, CLASSES)
    yield "head/bias", (CLASSES,)


def initial_weights(workload: Workload, seed: int = 0) -> dict[str, Array]:
    """The trainable weights every contender starts from, layer/part -> array, in a fixed order.

    Normal values: He's standard deviation sqrt(2 / fan in), 0.02 in a transformer, 1 in a table.
    """
    generator = np.random.default_rng([seed, 1])
    weights: dict[str, Array] = {}
    for name, shape in _shapes(workload):
        part = name.rpartition("/")[2]
        if part in ("gamma", "scale", "beta", "bias"):
            weights[name] = np.full(shape, part in ("gamma", "scale"), np.float32)
            continue
        deviation = 1.0 if part == "table" else float(np.sqrt(2.0 / np.prod(shape[:-1])))
        weights[name] = generator.standard_normal(shape, np.float32)
        weights[name] *= np.float32(0.02 if workload.family == "transformer" else deviation)
    return weights


def examples(workload: Workload, seed: int = 0) -> tuple[Array | IntArray, IntArray]:
    """The data set, `DATA_BATCHES` batches in the order they are trained on.

    Returns:
      x: float32 images [N, ...], or int32 tokens [N, 64], or int32 ids [N, 8].
      y: int32 labels [N], or the next tokens [N, 64].
    """
    generator = np.random.default_rng([seed, 2])
    count = DATA_BATCHES * workload.batch
    if workload.family == "transformer":
        t = TRANSFORMER
        # Each byte is the last one plus a small step, so that there is something to learn.
        steps = generator.integers(0, 8, (count, t.tokens + 1))
        tokens = (np.cumsum(steps, axis=1) % t.vocabulary).astype(np.int32)
        return tokens[:, :-1].copy(), tokens[:, 1:].copy()
    labels = generator.integers(0, CLASSES, count).astype(np.int32)
    if workload.family == "embedding":
        # Few rows are common and most are rare, as in real vocabularies; some repeat in a batch.
        ids = generator.zipf(1.1, (count, EMBEDDING.ids)) % EMBEDDING.rows * 7919 % EMBEDDING.rows
        return ids.astype(np.int32), labels
    templates = generator.random((CLASSES, *workload.example_shape), np.float32)
    noise = generator.random((count, *workload.example_shape), np.float32)
    return (templates[labels] + noise) * np.float32(0.5), labels
