"""Layers: variables around a kernel.

A layer's sizes are given, not inferred, so that its variables exist before anything is traced, and
its name is given, so that state, slots and messages call a variable the same in every run. Initial
values are drawn from (seed, name): the same on any number of replicas. Layers compute in the dtype
of what they are given; the variables keep their own.
"""

from loop.layers.batch_norm import BatchNorm
from loop.layers.convolution import Conv2D
from loop.layers.dense import Dense
from loop.layers.dropout import Dropout
from loop.layers.embedding import Embedding
from loop.layers.layer_norm import LayerNorm

__all__ = ["BatchNorm", "Conv2D", "Dense", "Dropout", "Embedding", "LayerNorm"]
