"""A table whose rows are looked up by id."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

import kernels
from loop.layers.initial import check_positive, drawn
from loop.layers.module import Module


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
        check_positive(f"Embedding {name!r}", rows=rows, width=width)
        shape = (rows, width)
        self.table = drawn(shape, name=f"{name}/table", seed=seed, deviation=deviation, dtype=dtype)

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        """Integer [...] -> [..., width]; an id outside [0, rows) gives a row of NaN."""
        return kernels.embedding_lookup(self.table, ids)
