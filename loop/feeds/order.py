"""The order of examples: a permutation of each epoch, computed from (seed, epoch) at any place.

A Feistel network over [0, a) x [0, b), a * b >= size, is a permutation; values that fall outside
[0, size) are put through again until they fall inside (cycle walking), which permutes [0, size).
Nothing is stored and nothing is searched: every place p of every epoch e costs the same, so a
resume in the middle of an epoch is exact, and a data set of any size takes no memory for its order.

Source: J. Black, P. Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

_ROUNDS = 8
# Up to this size an epoch's order is worth a table (1 MiB): short calls then cost a look-up each,
# not the hundred small array operations of the network.
_TABLE_SIZE = 2**17


class Order:
    """The examples' order in every epoch.

    Args:
      size: number of examples, at least 1.
      seed: the run's seed, any int of 64 bits.
      shuffle: False for the order of storage in every epoch.

    Raises:
      ValueError: if size is below 1 or above 2**62.
    """

    def __init__(self, size: int, seed: int = 0, *, shuffle: bool = True) -> None:
        if not 1 <= size <= 2**62:
            raise ValueError(f"Order: size must be from 1 to 2**62, got {size}")
        self.size = size
        self.seed = seed
        self.shuffle = shuffle
        self._rows = math.isqrt(size - 1) + 1
        self._columns = -(-size // self._rows)
        self._tables: dict[int, Indices] = {}

    def indices(self, places: npt.ArrayLike) -> Indices:
        """The examples at these places of the endless sequence of epochs.

        Args:
          places: integers >= 0, any shape; place p is in epoch p // size.

        Returns:
          int64 of the same shape, in [0, size); each epoch holds each example once.
        """
        asked = np.asarray(places, dtype=np.int64)
        # A scalar's arithmetic would warn of the overflow, which the hash needs.
        epochs, within = np.divmod(asked.reshape(-1), self.size)
        if not self.shuffle:
            return within.reshape(asked.shape)
        if self.size <= _TABLE_SIZE and asked.size < self.size:
            return self._looked_up(epochs, within).reshape(asked.shape)
        return self._computed(epochs, within).reshape(asked.shape)

    def _looked_up(self, epochs: Indices, within: Indices) -> Indices:
        """The examples from the tables of these epochs; for calls shorter than an epoch."""
        known, tables = self._tables, {}
        found = np.empty(len(within), np.int64)
        for epoch in np.unique(epochs).tolist():
            if epoch in known:
                tables[epoch] = known[epoch]
            else:
                tables[epoch] = self._computed(np.full(self.size, epoch), np.arange(self.size))
            here = epochs == epoch
            found[here] = tables[epoch][within[here]]
        # Replaced, never changed: another thread may be looking up in it.
        self._tables = tables
        return found

    def _computed(self, epochs: Indices, within: Indices) -> Indices:
        keys = self._round_keys(epochs)
        found = self._permuted(within, keys)
        outside = found >= self.size
        while outside.any():
            found[outside] = self._permuted(found[outside], keys[:, outside])
            outside = found >= self.size
        return found

    def _round_keys(self, epochs: Indices) -> npt.NDArray[np.uint64]:
        """uint64 [rounds, *epochs.shape]: a key for every round of every epoch."""
        unique, inverse = np.unique(epochs, return_inverse=True)
        key = _mix(np.array([(self.seed + 0x9E3779B97F4A7C15) % 2**64], np.uint64))
        rounds = np.arange(1, _ROUNDS + 1, dtype=np.uint64)[:, None] << np.uint64(48)
        keys = _mix(_mix(key ^ unique.astype(np.uint64)) ^ rounds)
        return keys[:, inverse]

    def _permuted(self, values: Indices, keys: npt.NDArray[np.uint64]) -> Indices:
        left, right = np.divmod(values, self._columns)
        moduli = self._rows, self._columns
        for number, key in enumerate(keys):
            modulus = moduli[number % 2]
            high = _mix(key + right.astype(np.uint64)) >> np.uint64(32)
            draw = ((high * np.uint64(modulus)) >> np.uint64(32)).astype(np.int64)
            shifted = left + draw
            left, right = right, np.where(shifted < modulus, shifted, shifted - modulus)
        return left * self._columns + right


def _mix(value: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finalizer (Steele, Lea, Flood, OOPSLA 2014), of uint64."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = value ^ (value >> np.uint64(31))
    return mixed
