"""The race's workloads: shapes, initial weights and data, the same for every contender.

NumPy alone, so that every peer's environment can import it. All weights and examples follow from
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

import dataclasses
from typing import Literal

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


@dataclasses.dataclass(frozen=True)
class Workload:
    """One workload.

    Attributes:
      name: as given to --workloads.
      family: which model.
      batch: examples a step.
      example_shape: shape of one example's input.
      steps_per_call: steps a call, for the contenders that run several in one.
      widths: of an MLP, input to output; empty elsewhere.
    """

    name: str
    family: Family
    batch: int
    example_shape: tuple[int, ...]
    steps_per_call: int
    widths: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Transformer:
    """The transformer's sizes."""

    layers: int = 2
    width: int = 128
    heads: int = 4
    tokens: int = 64
    vocabulary: int = 256
    hidden: int = 512


@dataclasses.dataclass(frozen=True)
class Embedding:
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
    convolutions = [(3, RESNET_WIDTHS[0], 1)]
    channels = RESNET_WIDTHS[0]
    for width in RESNET_WIDTHS:
        for block in range(RESNET_BLOCKS):
            stride = 2 if width != channels and block == 0 else 1
            convolutions += [(channels, width, stride), (width, width, 1)]
            channels = width
    return convolutions


def _normal(generator: np.random.Generator, shape: tuple[int, ...], deviation: float) -> Array:
    values: Array = generator.standard_normal(shape, np.float32)
    values *= np.float32(deviation)
    return values


def _kernel(generator: np.random.Generator, *shape: int) -> Array:
    """He-normal weights: standard deviation sqrt(2 / fan in)."""
    fan_in = int(np.prod(shape[:-1]))
    return _normal(generator, shape, float(np.sqrt(2.0 / fan_in)))


def _norm(weights: dict[str, Array], index: int, width: int) -> None:
    weights[f"bn{index}/gamma"] = np.ones(width, np.float32)
    weights[f"bn{index}/beta"] = np.zeros(width, np.float32)


def _head(
    generator: np.random.Generator, weights: dict[str, Array], width: int, classes: int = CLASSES
) -> None:
    weights["head/kernel"] = _kernel(generator, width, classes)
    weights["head/bias"] = np.zeros(classes, np.float32)


def _transformer_weights(generator: np.random.Generator) -> dict[str, Array]:
    t, weights = TRANSFORMER, {}

    def normal(*shape: int) -> Array:
        return _normal(generator, shape, 0.02)

    def norm(name: str) -> None:
        weights[f"{name}/scale"] = np.ones(t.width, np.float32)
        weights[f"{name}/bias"] = np.zeros(t.width, np.float32)

    weights["token"] = normal(t.vocabulary, t.width)
    weights["position"] = normal(t.tokens, t.width)
    for i in range(t.layers):
        norm(f"layer{i}/norm0")
        for name in ("query", "key", "value", "project"):
            weights[f"layer{i}/{name}"] = normal(t.width, t.width)
        norm(f"layer{i}/norm1")
        weights[f"layer{i}/expand"] = normal(t.width, t.hidden)
        weights[f"layer{i}/contract"] = normal(t.hidden, t.width)
    norm("norm")
    weights["head/kernel"] = normal(t.width, t.vocabulary)
    return weights


def initial_weights(workload: Workload, seed: int = 0) -> dict[str, Array]:
    """The trainable weights every contender starts from, name -> array, in a fixed order.

    Dense kernels are [in, out], convolutions [height, width, in, out].
    """
    generator = np.random.default_rng([seed, 1])
    weights: dict[str, Array] = {}
    if workload.family == "mlp":
        for i, width in enumerate(workload.widths[1:-1]):
            weights[f"dense{i}/kernel"] = _kernel(generator, workload.widths[i], width)
            _norm(weights, i, width)
        _head(generator, weights, workload.widths[-2], workload.widths[-1])
    elif workload.family == "cnn":
        for i, (fan_in, width) in enumerate(((1, 32), (32, 64))):
            weights[f"conv{i}/kernel"] = _kernel(generator, 3, 3, fan_in, width)
            _norm(weights, i, width)
        _head(generator, weights, 7 * 7 * 64)
    elif workload.family == "resnet20":
        for i, (fan_in, width, _) in enumerate(resnet_convolutions()):
            weights[f"conv{i}/kernel"] = _kernel(generator, 3, 3, fan_in, width)
            _norm(weights, i, width)
        _head(generator, weights, RESNET_WIDTHS[-1])
    elif workload.family == "transformer":
        weights = _transformer_weights(generator)
    else:
        e = EMBEDDING
        weights["table"] = generator.standard_normal((e.rows, e.width), np.float32)
        weights["dense0/kernel"] = _kernel(generator, e.width, e.hidden)
        weights["dense0/bias"] = np.zeros(e.hidden, np.float32)
        _head(generator, weights, e.hidden)
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
