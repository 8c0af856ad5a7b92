"""CRC-32C of many byte strings at once, in NumPy, about 3 ns a byte.

A checksum is linear over GF(2), so a string is cut into short segments whose checksums all advance
together, and neighbours are then combined by the operator that appends zero bytes.

Source: G. Castagnoli et al., IEEE Trans. Comm. 41(6), 1993; the combination follows zlib's
`crc32_combine`. The mask is TFRecord's (tensorflow/core/lib/hash/crc32c.h).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_Words = npt.NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78  # reflected
_SEGMENT = 32  # bytes that one lane reads: a power of two
_MASK_DELTA = 0xA282EAD8


def masked_crc32c(strings: Sequence[bytes | memoryview]) -> _Words:
    """The masked CRC-32C of each string, as TFRecord files store it: uint32 [len(strings)]."""
    crc = crc32c(strings)
    masked: _Words = ((crc >> 15) | (crc << 17)) + np.uint32(_MASK_DELTA)
    return masked


def crc32c(strings: Sequence[bytes | memoryview]) -> _Words:
    """The CRC-32C of each string, uint32 [len(strings)]."""
    longest = max(map(len, strings), default=0)
    # Zeros in front do not change a zero register, so that strings of any length can be aligned at
    # their ends; four bytes before each set the register to its start value.
    start = _bytes_to_register(0xFFFFFFFF)
    lanes = 1
    while lanes * _SEGMENT < longest + len(start):
        lanes *= 2
    padded = np.zeros([len(strings), lanes * _SEGMENT], np.uint8)
    for row, string in zip(padded, strings, strict=True):
        at = len(row) - len(string)
        row[at - len(start) : at] = start
        row[at:] = np.frombuffer(string, np.uint8)
    words = padded.view("<u2").reshape(len(strings) * lanes, _SEGMENT // 2)
    table = _two_byte_table()
    crc: _Words = np.zeros(len(words), np.uint32)
    for column in np.ascontiguousarray(words.T):
        low = (crc.astype(np.uint16) ^ column).astype(np.intp)
        crc >>= 16
        crc ^= table.take(low, mode="clip")
    crc = crc.reshape(len(strings), lanes)
    length = _SEGMENT
    while crc.shape[1] > 1:
        crc = _applied(_zeros_table(length), crc[:, 0::2]) ^ crc[:, 1::2]
        length *= 2
    final: _Words = crc[:, 0] ^ np.uint32(0xFFFFFFFF)
    return final


@functools.cache
def _byte_table() -> _Words:
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = (crc >> 1) ^ np.where(crc & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return crc


@functools.cache
def _two_byte_table() -> _Words:
    """The register that two bytes leave, as a function of the low 16 bits before them."""
    crc = np.arange(65536, dtype=np.uint32)
    for _ in range(2):
        crc = _byte_table()[crc & 0xFF] ^ (crc >> 8)
    return crc


@functools.cache
def _zeros_table(length: int) -> _Words:
    """uint32 [4, 256]: what `length` zero bytes, a power of two, make of a register's bytes."""
    if length == 1:
        shifts = 8 * np.arange(4, dtype=np.uint32)[:, None]
        crc = np.arange(256, dtype=np.uint32) << shifts
        zeros: _Words = _byte_table()[crc & 0xFF] ^ (crc >> 8)
        return zeros
    half = _zeros_table(length // 2)
    return _applied(half, half)


def _applied(table: _Words, crc: _Words) -> _Words:
    register: _Words = table[0, crc & 0xFF]
    for byte in range(1, 4):
        register = register ^ table[byte, (crc >> np.uint32(8 * byte)) & 0xFF]
    return register


@functools.cache
def _bytes_to_register(value: int) -> npt.NDArray[np.uint8]:
    """The four bytes that take the register from zero to `value`."""
    table = _byte_table().tolist()
    by_high_byte = {entry >> 24: index for index, entry in enumerate(table)}
    for _ in range(4):
        index = by_high_byte[value >> 24]
        value = (((value ^ table[index]) << 8) & 0xFFFFFFFF) | index
    # Reading four bytes from register zero is reading four zeros from the register of these bytes.
    return np.frombuffer(value.to_bytes(4, "little"), np.uint8)
