"""A `tf.data.Dataset` read as its graph: opened anew in one order, and what it says of itself.

An opened data set that shuffles goes on with other orders each time it is opened, also where its
shuffle has a seed: the generator of the orders is part of the object. And a shuffle without a seed
has another order in each process. With both a resume would see other batches, so a data set is
opened from its graph, with a generator of its own and with a seed in every shuffle.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, types_pb2
from tensorflow.python.eager import context

_log = logging.getLogger(__name__)

_IGNORE_EXTERNAL_STATE = 1

_ONE_TO_ONE = frozenset(
    {
        *("PrefetchDataset", "OptionsDataset", "MapDataset", "ParallelMapDataset"),
        *("ParallelMapDatasetV2", "CacheDataset", "CacheDatasetV2", "AssertCardinalityDataset"),
        *("ModelDataset", "PrivateThreadPoolDataset", "MaxIntraOpParallelismDataset"),
    }
)
"""Operations that give one element for each that they are given."""

_BATCHES = ("BatchDataset", "BatchDatasetV2", "ParallelBatchDataset", "PaddedBatchDatasetV2")

_RANDOM = (
    *("RandomUniform", "RandomUniformInt", "RandomStandardNormal", "TruncatedNormal"),
    *("RandomShuffle", "Multinomial", "RandomGammaV2", "RandomPoissonV2"),
)
"""Operations whose hidden state no seed puts back."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a data set's graph says.

    Attributes:
      batch_size: examples in each of its elements; None if they are not batches or it is not known.
      batches: its full batches; None if that is not known, or it has no end.
      random: the types of its operations that draw random numbers which no resume draws again.
    """

    batch_size: int | None
    batches: int | None
    random: tuple[str, ...]


def opened(dataset: tf.data.Dataset, seed: int, epoch: int = 0) -> tf.data.Dataset:
    """The data set anew, in an order that follows from the arguments alone.

    Args:
      dataset: any; one without a shuffle is given back as it is.
      seed: of its shuffles that have none of their own; under a global seed, of all.
      epoch: each has an order of its own, where `reshuffle_each_iteration` does not forbid it.
    """
    graph = _graph(dataset)
    if graph is None:
        return dataset
    shuffles = list(_shuffles(graph))
    if not shuffles:
        return dataset
    for number, (shuffle, constants) in enumerate(shuffles):
        _seed(shuffle, constants, (seed, number), epoch)
    variant = tf.raw_ops.DatasetFromGraph(graph_def=graph.SerializeToString())
    anew = tf.data.experimental.from_variant(variant, dataset.element_spec)
    return anew.with_options(dataset.options())


def facts(dataset: tf.data.Dataset) -> Facts:
    """What the data set's graph says of it."""
    whole = int(dataset.cardinality())
    known = whole if whole >= 0 else None
    sizes = {
        spec.shape[0] if spec.shape.rank else None
        for spec in tf.nest.flatten(dataset.element_spec)
        if hasattr(spec, "shape") and spec.shape.rank is not None
    }
    static = sizes.pop() if len(sizes) == 1 else None
    graph = _graph(dataset)
    if graph is None:
        return Facts(static, known if static else None, ())
    random = tuple(sorted({node.op for node in _nodes(graph)} & set(_RANDOM)))
    batch = _batch_node(graph)
    if batch is None:
        return Facts(static, known if static else None, random)
    by_name = {node.name: node for node in graph.node}
    place = {"ParallelBatchDataset": 3, "PaddedBatchDatasetV2": -1}.get(batch.op, 2)
    size = int(_value(by_name[batch.input[1]]))
    drops = batch.op != "BatchDataset" and bool(_value(by_name[batch.input[place]]))
    if known is None or drops:
        return Facts(size, known, random)
    for node in graph.node:
        if node.op == "_Retval":
            node.input[0] = batch.input[0]
    variant = tf.raw_ops.DatasetFromGraph(graph_def=graph.SerializeToString())
    examples = int(tf.raw_ops.DatasetCardinality(input_dataset=variant))
    return Facts(size, examples // size if examples >= 0 else None, random)


def _graph(dataset: tf.data.Dataset) -> Any | None:
    """The data set's GraphDef; None, with a line, where it cannot be written as one."""
    variant = tf.data.experimental.to_variant(dataset)
    try:
        text = tf.raw_ops.DatasetToGraphV2(
            input_dataset=variant, external_state_policy=_IGNORE_EXTERNAL_STATE
        )
    except tf.errors.OpError as error:
        _log.warning(
            "Dataset: the data set could not be read as a graph (%s): if it shuffles, a resume may "
            "see another order; give feeds.Dataset a function that makes it",
            str(error.message).partition("\n")[0],
        )
        return None
    graph = graph_pb2.GraphDef()
    graph.ParseFromString(text.numpy())
    return graph


def _nodes(graph: Any) -> Iterator[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _shuffles(graph: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Every shuffle and source of random numbers, and the constants beside it by name."""
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        constants = {node.name: node for node in nodes if node.op == "Const"}
        for node in nodes:
            if node.op.startswith(("Shuffle", "RandomDataset")) and "Dataset" in node.op:
                yield node, constants


def _seed(shuffle: Any, constants: dict[str, Any], key: tuple[int, int], epoch: int) -> None:
    """Gives a shuffle an order that follows from the key, its own seeds and the epoch."""
    inputs = [constants.get(name.partition(":")[0]) for name in shuffle.input]
    for node in inputs:
        if node is not None and node.attr["dtype"].type == types_pb2.DT_RESOURCE:
            node.op = "DummySeedGenerator"  # The kernel then makes one of its own.
            node.attr.clear()
    first = 0 if shuffle.op.startswith("RandomDataset") else 2
    own = [node for node in inputs[first : first + 2] if node is not None]
    if len(own) < 2:
        return
    seeds = [int(_value(node)) for node in own]
    # With a global seed (`tf.random.set_seed`) TensorFlow numbers the seeds by what the process has
    # made before: another order in a second run of a notebook's cell.
    if not any(seeds) or seeds[0] == context.global_seed():
        digest = hashlib.sha256(repr(key).encode()).digest()
        seeds = [int.from_bytes(digest[i : i + 8], "little", signed=True) for i in (0, 8)]
    fixed = "reshuffle_each_iteration" in shuffle.attr
    if not fixed or shuffle.attr["reshuffle_each_iteration"].b:
        # Any other number is another order; of epoch 0 it is the data set's own.
        seeds[1] = (seeds[1] + epoch + 2**63) % 2**64 - 2**63
    for node, value in zip(own, seeds, strict=True):
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, tf.int64, []))


def _batch_node(graph: Any) -> Any | None:
    """The operation that makes the batches, if nothing after it drops, repeats or joins any."""
    by_name = {node.name: node for node in graph.node}
    node = next(by_name[n.input[0]] for n in graph.node if n.op == "_Retval")
    # A factory's data set from step 0 on ends in a skip of nothing.
    while node.op in _ONE_TO_ONE or (
        node.op == "SkipDataset" and not int(_value(by_name[node.input[1]]))
    ):
        node = by_name[node.input[0]]
    return node if node.op in _BATCHES else None


def _value(node: Any) -> Any:
    return tf.make_ndarray(node.attr["value"].tensor)
