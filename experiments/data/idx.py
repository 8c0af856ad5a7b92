"""Reads MNIST's IDX files, gzipped or not, trusting nothing in them.

Format: http://yann.lecun.com/exdb/mnist (big-endian magic 0, 0, 8, dimensions; the sizes; bytes).
Every claim of the header is held against the file's size before anything is allocated.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from typing import IO

import numpy as np
import numpy.typing as npt

from experiments.entry.errors import InputError

UINT8 = npt.NDArray[np.uint8]

# Five times MNIST: bounds what a gzip bomb with an honest-looking header may fill (235 MB).
LARGEST_COUNT = 300_000
SIDE = 28
# Deflate's best ratio is 1032 to 1 (https://zlib.net/zlib_tech.html).
_LARGEST_RATIO = 1032
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_MEND = "fetch the file again, or point --data_dir at an undamaged copy"


def file_size(path: str) -> int:
    """The size in bytes of the regular file at `path`.

    Raises:
      InputError: if there is none or it is something else (a pipe would block for ever).
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise InputError(
            path, expected="a readable file", found=_reason(error), mend="check --data_dir"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(
            path, expected="a regular file", found="another kind", mend="check --data_dir"
        )
    return status.st_size


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[IO[bytes], bool]]:
    """The file's content, decompressed if it is gzipped (by its first bytes, not by its name)."""
    try:
        with open(path, "rb") as plain:
            zipped = plain.read(2) == _GZIP_MAGIC
            plain.seek(0)
            if not zipped:
                yield plain, False
                return
            with gzip.GzipFile(fileobj=plain) as content:
                yield content, True  # type: ignore[misc]  # GzipFile reads as IO[bytes] does
    except OSError as error:
        raise InputError(
            path, expected="a readable file", found=_reason(error), mend="check its permissions"
        ) from error


def _read(path: str, content: IO[bytes], count: int, offset: int) -> bytearray:
    """Exactly `count` bytes, growing as they arrive, so a lying header allocates nothing."""
    data = bytearray()
    try:
        while len(data) < count:
            chunk = content.read(min(_CHUNK, count - len(data)))
            if not chunk:
                break
            data += chunk
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: offset {offset + len(data)}",
            expected=f"{count} bytes from offset {offset}",
            found=f"damaged compressed data ({_reason(error)})",
            mend=_MEND,
        ) from error
    if len(data) < count:
        raise InputError(
            f"{path}: offset {offset + len(data)}",
            expected=f"{count} bytes from offset {offset}",
            found=f"the end after {len(data)}",
            mend=_MEND,
        )
    return data


def _check_header(path: str, shape: list[int], size: int, zipped: bool) -> int:
    """Holds the sizes of the header against the limits and the file; returns the payload bytes."""
    if not 1 <= shape[0] <= LARGEST_COUNT:
        raise InputError(
            f"{path}: offset 4 (count)",
            expected=f"1 to {LARGEST_COUNT} examples",
            found=shape[0],
            mend=_MEND,
        )
    if len(shape) == 3 and shape[1:] != [SIDE, SIDE]:
        raise InputError(
            f"{path}: offset 8 (rows, columns)",
            expected=f"{SIDE} by {SIDE} pixels",
            found=f"{shape[1]} by {shape[2]}",
            mend=_MEND,
        )
    header = 4 + 4 * len(shape)
    payload = int(np.prod(shape, dtype=object))
    if not zipped and size != header + payload:
        raise InputError(
            f"{path}: offset {min(size, header + payload)}",
            expected=f"{header + payload} bytes in all for {shape[0]} examples",
            found=f"{size} bytes",
            mend=_MEND,
        )
    if zipped and payload > size * _LARGEST_RATIO:
        raise InputError(
            f"{path}: offset 4 (count)",
            expected=f"no more than {size} compressed bytes can hold",
            found=f"{shape[0]} examples",
            mend=_MEND,
        )
    return payload


def _read_idx(path: str, dimensions: int) -> UINT8:
    size = file_size(path)
    with _opened(path) as (content, zipped):
        magic = bytes([0, 0, 8, dimensions])
        found = bytes(_read(path, content, 4, 0))
        if found != magic:
            kind = "images" if dimensions == 3 else "labels"
            raise InputError(
                f"{path}: offset 0 (magic)",
                expected=f"{magic.hex()} (IDX {kind})",
                found=found.hex(),
                mend="check that images and labels were not swapped; else " + _MEND,
            )
        sizes = np.frombuffer(_read(path, content, 4 * dimensions, 4), dtype=">u4")
        shape = [int(value) for value in sizes]
        payload = _check_header(path, shape, size, zipped)
        header = 4 + 4 * dimensions
        data = _read(path, content, payload, header)
        try:
            # Also makes gzip check its CRC.
            rest = content.read(1)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(
                f"{path}: offset {header + payload}",
                expected="the end of sound compressed data",
                found=_reason(error),
                mend=_MEND,
            ) from error
        if rest:
            raise InputError(
                f"{path}: offset {header + payload}",
                expected=f"the end after {shape[0]} examples",
                found="more bytes",
                mend=_MEND,
            )
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def read_images(path: str) -> UINT8:
    """Images of an IDX file.

    Args:
      path: the file, gzipped or not.

    Returns:
      uint8 [N, 28, 28], 0..255.

    Raises:
      InputError: on anything but a sound file; names the file and the offset.
    """
    return _read_idx(path, 3)


def read_labels(path: str, classes: int, count: int) -> UINT8:
    """Labels of an IDX file.

    Args:
      path: the file, gzipped or not.
      classes: labels are 0..classes-1.
      count: the number of images they belong to.

    Returns:
      uint8 [count].

    Raises:
      InputError: on anything but a sound file of `count` labels; names the file and the offset.
    """
    labels = _read_idx(path, 1)
    if len(labels) != count:
        raise InputError(
            f"{path}: offset 4 (count)",
            expected=f"{count} labels, one an image",
            found=len(labels),
            mend="take images and labels from the same release",
        )
    wrong = np.flatnonzero(labels >= classes)
    if len(wrong):
        raise InputError(
            f"{path}: offset {8 + int(wrong[0])} (label of example {int(wrong[0])})",
            expected=f"0 to {classes - 1}",
            found=int(labels[wrong[0]]),
            mend=_MEND,
        )
    return labels
