"""TFRecord files with random access: an index of offsets, and checked reads.

A record is its length (uint64), the length's masked CRC-32C, the data, the data's masked CRC-32C.
"""

from __future__ import annotations

import array
import hashlib
import itertools
import os
import struct
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loop.feeds.crc32c import masked_crc32c
from loop.feeds.errors import DamagedRecordError, FeedError

_HEADER = 12
_FOOTER = 4
_BLOCK = 1 << 20
_GAP = 4096
"""Records no further apart than this, in bytes, are read together: a read costs more."""


class RecordFiles:
    """The records of TFRecord files, numbered without a gap in the order of the files.

    Opening reads every file once for the offsets and the checksums of the lengths; the index takes
    8 bytes a record. The data's checksums are checked whenever a record is read. Reads may come
    from many threads.

    Args:
      paths: uncompressed files on a local or mounted file system, kept open.
      threads: reads in flight at a time.

    Attributes:
      paths: the files.
      size: records in all files.
      mean_bytes: a record takes in them on average.

    Raises:
      ValueError: on no file, or threads below 1.
      FeedError: where a file is empty, compressed or cannot be opened.
      DamagedRecordError: where a length is damaged or a file ends within a record.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], *, threads: int = 1) -> None:
        if not paths:
            raise ValueError("Records: expected at least one TFRecord file, found none")
        if threads < 1:
            raise ValueError(f"Records: threads must be at least 1, got {threads}")
        self.paths = [Path(path) for path in paths]
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "read records") if threads > 1 else None
        self._files: list[int] = []
        # A feed has no `close` that a caller would call.
        self._close = weakref.finalize(self, _close, self._files, self._pool)
        for path in self.paths:
            try:
                self._files.append(os.open(path, os.O_RDONLY))
            except OSError as error:
                raise FeedError(
                    f"{path}: cannot be opened ({error.strerror}); all {len(paths)} files of a "
                    "feed are kept open, `ulimit -n` allows more"
                ) from error
        offsets = [_offsets(path, file) for path, file in zip(self.paths, self._files, strict=True)]
        self._starts = np.concatenate([found[:-1] for found in offsets])
        self._ends = np.array([found[-1] for found in offsets])
        self._first = np.cumsum([0, *(len(found) - 1 for found in offsets)])
        self.size = int(self._first[-1])
        self.mean_bytes = int(self._ends.sum()) / self.size

    def close(self) -> None:
        """Closes the files."""
        self._close()

    def facts(self) -> dict[str, Any]:
        """The files' number and bytes, and a digest of each one's name, size and records."""
        counts = np.diff(self._first).tolist()
        listed = zip(self.paths, self._ends.tolist(), counts, strict=True)
        lines = "".join(f"{path.name}\t{size}\t{count}\n" for path, size, count in listed)
        return {
            "count": len(self.paths),
            "bytes": int(self._ends.sum()),
            "names_and_sizes": hashlib.sha256(os.fsencode(lines)).hexdigest()[:16],
        }

    def locate(self, record: int) -> tuple[Path, int]:
        """The file and the offset of a record."""
        return self.paths[self._file_of(record)], int(self._starts[record])

    def _file_of(self, record: int | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.searchsorted(self._first, record, side="right") - 1

    def read(self, records: npt.NDArray[np.int64]) -> list[bytes]:
        """The data of these records, in their order.

        Args:
          records: int64 [N] in [0, size); repeated ones are read once.

        Raises:
          DamagedRecordError: where a checksum fails or a file is shorter than when it was indexed.
        """
        unique, inverse = np.unique(records, return_inverse=True)
        parts = [part for part in np.array_split(unique, self._threads) if len(part)]
        apply = map if self._pool is None else self._pool.map
        framed = list(itertools.chain.from_iterable(apply(self._read_sorted, parts)))
        data = [part[:-_FOOTER] for part in framed]
        self._check(unique, data, [part[-_FOOTER:] for part in framed])
        return [data[index] for index in inverse.tolist()]

    def _read_sorted(self, records: npt.NDArray[np.int64]) -> list[bytes]:
        """Data and footer of each record; neighbours in one read.

        Copies: views would be objects of the garbage collector, which then runs every few calls.
        """
        files = self._file_of(records)
        starts = self._starts[records]
        last = records + 1 == self._first[files + 1]
        ends = np.where(last, self._ends[files], self._starts[(records + 1) % self.size])
        apart = (np.diff(files) != 0) | (starts[1:] - ends[:-1] > _GAP)
        cuts = [0, *(np.flatnonzero(apart) + 1).tolist(), len(records)]
        numbers, begin, end = files.tolist(), starts.tolist(), ends.tolist()
        data = []
        for low, high in itertools.pairwise(cuts):
            base = begin[low]
            read = _pread(self._files[numbers[low]], end[high - 1] - base, base)
            for index in range(low, high):
                data.append(read[begin[index] - base + _HEADER : end[index] - base])
        return data

    def _check(
        self, records: npt.NDArray[np.int64], data: Sequence[bytes], stored: Sequence[bytes]
    ) -> None:
        short = np.array([len(part) != _FOOTER for part in stored])
        words = np.frombuffer(
            b"".join(part if len(part) == _FOOTER else bytes(_FOOTER) for part in stored), "<u4"
        )
        computed = masked_crc32c(data)
        wrong = np.flatnonzero(short | (words != computed))
        if len(wrong):
            path, offset = self.locate(int(records[wrong[0]]))
            raise DamagedRecordError(
                f"{path}: damaged record at offset {offset}: its data expected to have the stored "
                f"checksum {words[wrong[0]]:#010x}, found {computed[wrong[0]]:#010x}; write the "
                "file again"
            )


def _close(files: list[int], pool: ThreadPoolExecutor | None) -> None:
    if pool is not None:
        pool.shutdown(wait=False)
    while files:
        os.close(files.pop())


def _pread(file: int, length: int, offset: int) -> bytes:
    """`length` bytes, or fewer where the file ends: a read stops at 2 GiB and at signals."""
    parts = []
    while length and (part := os.pread(file, length, offset)):
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _offsets(path: Path, file: int) -> npt.NDArray[np.int64]:
    """Where each record of a file starts, and the file's size: int64 [records + 1]."""
    size = os.fstat(file).st_size
    if size == 0:
        raise FeedError(f"{path}: expected TFRecords, found an empty file")
    offsets = array.array("q")
    headers = []
    end = 0
    for offset, header in _headers(file):
        offsets.append(offset)
        headers.append(header)
        end = offset + _HEADER + int.from_bytes(header[:8], "little") + _FOOTER
    whole = [header.ljust(_HEADER, b"\0") for header in headers]
    stored = np.frombuffer(b"".join(whole), np.uint8).reshape(-1, _HEADER)
    computed = masked_crc32c([header[:8] for header in whole])
    wrong = np.flatnonzero(np.ascontiguousarray(stored[:, 8:]).view("<u4")[:, 0] != computed)
    if len(wrong):
        raise _damaged_length(path, offsets[wrong[0]], headers[wrong[0]])
    if end != size:
        raise DamagedRecordError(
            f"{path}: the record at offset {offsets[-1]} expected to end at byte {end}, found the "
            f"end of the file at {size}; the file was cut short, write it again"
        )
    return np.array([*offsets, size], np.int64)


def _damaged_length(path: Path, offset: int, header: bytes) -> FeedError:
    if offset == 0 and header[:2] in (b"\x1f\x8b", b"\x78\x9c", b"\x78\x01", b"\x78\xda"):
        return FeedError(
            f"{path}: expected uncompressed TFRecords, found a GZIP or ZLIB header; random access "
            "needs the records as they are: write them uncompressed"
        )
    return DamagedRecordError(
        f"{path}: damaged record at offset {offset}: its length's checksum does not match; the "
        "file is no TFRecord file, or must be written again"
    )


def _headers(file: int) -> Iterator[tuple[int, bytes]]:
    """Offset and header of each record, found in blocks of the file; a header may be incomplete."""
    length_of = struct.Struct("<Q").unpack_from
    offset = 0
    while block := _pread(file, _BLOCK, offset):
        at = 0
        while at + _HEADER <= len(block):
            yield offset + at, block[at : at + _HEADER]
            at += _HEADER + length_of(block, at)[0] + _FOOTER
        if at < len(block) < _BLOCK:  # The file ends within a header.
            yield offset + at, block[at:]
            return
        offset += at
        if offset > 2**62:  # No length; the check of its checksum below reports it.
            return
