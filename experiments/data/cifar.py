"""Reads the binary version of CIFAR-10 and CIFAR-100, from its folder or straight from its archive.

Format: https://www.cs.toronto.edu/~kriz/cifar.html. A record is one label byte (CIFAR-100: coarse,
then fine) and 3,072 bytes of pixels, channels first. The archive is read in memory, so nothing in
it can be written anywhere; the Python version holds pickles and is never read.
"""

from __future__ import annotations

import dataclasses
import gzip
import os
import tarfile
import zlib

import numpy as np
import numpy.typing as npt

from experiments.data.idx import file_size
from experiments.entry.errors import InputError

UINT8 = npt.NDArray[np.uint8]

_PIXELS = 3 * 32 * 32
_LARGEST_COUNT = 60_000
# CIFAR's archives hold 184 MB; what a gzip bomb may make of a small file is bounded by this.
_LARGEST_ARCHIVE = 256 << 20
_CHUNK = 1 << 20
_MEND = "fetch the binary version again, or point --data_dir at an undamaged copy"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The files of a version.

    Attributes:
      archive: the published archive.
      folder: the folder in it.
      train: files of the training set, in order.
      test: files of the test set.
      label_bytes: bytes before the pixels; the last is the label.
      classes: labels are 0..classes-1.
    """

    archive: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int
    classes: int

    @property
    def record(self) -> int:
        """Bytes of an example."""
        return self.label_bytes + _PIXELS


LAYOUTS = {
    "cifar10": Layout(
        "cifar-10-binary.tar.gz",
        "cifar-10-batches-bin",
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        ("test_batch.bin",),
        label_bytes=1,
        classes=10,
    ),
    "cifar100": Layout(
        "cifar-100-binary.tar.gz",
        "cifar-100-binary",
        ("train.bin",),
        ("test.bin",),
        label_bytes=2,
        classes=100,
    ),
}


class _BoundedReader:
    """A stream that refuses to give more than the archive's limit."""

    def __init__(self, content: gzip.GzipFile, path: str) -> None:
        self._content = content
        self._path = path
        self._read = 0

    def read(self, count: int) -> bytes:
        if self._read > _LARGEST_ARCHIVE or count > _LARGEST_ARCHIVE:
            raise InputError(
                f"{self._path}: offset {self._read} of the unpacked archive",
                expected=f"at most {_LARGEST_ARCHIVE} bytes",
                found="more",
                mend=_MEND,
            )
        data = self._content.read(count)
        self._read += len(data)
        return data


def _check_size(where: str, size: int, layout: Layout) -> None:
    if size == 0 or size % layout.record or size > _LARGEST_COUNT * layout.record:
        raise InputError(
            where,
            expected=f"1 to {_LARGEST_COUNT} records of {layout.record} bytes",
            found=f"{size} bytes",
            mend=_MEND,
        )


def _decode(where: str, data: bytes, layout: Layout) -> tuple[UINT8, npt.NDArray[np.int32]]:
    """Images [N, 32, 32, 3] and labels [N] of a file's records."""
    records = np.frombuffer(data, dtype=np.uint8).reshape(-1, layout.record)
    labels = records[:, layout.label_bytes - 1]
    wrong = np.flatnonzero(labels >= layout.classes)
    if len(wrong):
        example = int(wrong[0])
        raise InputError(
            f"{where}: offset {example * layout.record + layout.label_bytes - 1}"
            f" (label of example {example})",
            expected=f"0 to {layout.classes - 1}",
            found=int(labels[example]),
            mend=_MEND,
        )
    planes = records[:, layout.label_bytes :].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels.astype(np.int32)


def _from_folder(folder: str, layout: Layout) -> dict[str, bytes]:
    contents = {}
    for name in layout.train + layout.test:
        path = os.path.join(folder, name)
        size = file_size(path)
        _check_size(path, size, layout)
        try:
            with open(path, "rb") as file:
                contents[name] = file.read(size)
        except OSError as error:
            raise InputError(
                path,
                expected="a readable file",
                found=error.strerror or error,
                mend="check its permissions",
            ) from error
        _check_size(path, len(contents[name]), layout)
    return contents


def _check_member(path: str, member: tarfile.TarInfo) -> None:
    """An archive of CIFAR holds plain files in one folder; anything else is not CIFAR."""
    outside = member.name.startswith("/") or ".." in member.name.split("/")
    if outside or not (member.isfile() or member.isdir()):
        raise InputError(
            f"{path}: entry {member.name}",
            expected="a plain file inside the archive's folder",
            found="a path outside it" if outside else "a link or a device",
            mend=_MEND,
        )


def _from_archive(path: str, layout: Layout) -> dict[str, bytes]:
    file_size(path)
    wanted = {f"{layout.folder}/{name}": name for name in layout.train + layout.test}
    contents: dict[str, bytes] = {}
    try:
        with gzip.open(path, "rb") as unpacked:
            bounded = _BoundedReader(unpacked, path)
            with tarfile.open(fileobj=bounded, mode="r|") as archive:  # type: ignore[call-overload]
                for member in archive:
                    _check_member(path, member)
                    name = wanted.get(member.name.removeprefix("./"))
                    if name is None or not member.isfile():
                        continue
                    _check_size(f"{path}: entry {member.name}", member.size, layout)
                    content = archive.extractfile(member)
                    contents[name] = content.read()
            # gzip checks its CRC at the end of the stream, which tar need not reach.
            while bounded.read(_CHUNK):
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError) as error:
        raise InputError(
            path, expected="a sound tar.gz archive", found=error, mend=_MEND
        ) from error
    for name in layout.train + layout.test:
        if len(contents.get(name, b"")) == 0:
            raise InputError(
                path, expected=f"the entry {layout.folder}/{name}", found="none", mend=_MEND
            )
        _check_size(f"{path}: entry {name}", len(contents[name]), layout)
    return contents


def _find(name: str, folders: tuple[str, ...], layout: Layout) -> dict[str, bytes]:
    for folder in folders:
        for candidate in (folder, os.path.join(folder, layout.folder)):
            if os.path.exists(os.path.join(candidate, layout.test[0])):
                return _from_folder(candidate, layout)
        archive = os.path.join(folder, layout.archive)
        if os.path.exists(archive):
            return _from_archive(archive, layout)
    pickled = layout.archive.replace("binary", "python")
    found = "neither"
    if any(os.path.exists(os.path.join(folder, pickled)) for folder in folders):
        found = f"{pickled}, which holds pickles and is never read"
    raise InputError(
        f"--data_dir={folders[-1]}",
        expected=f"{layout.archive} or its folder {layout.folder}",
        found=found,
        mend=f"put the binary version of {name} there, or fetch it with --download",
    )


def read(
    name: str, folders: tuple[str, ...]
) -> tuple[UINT8, npt.NDArray[np.int32], UINT8, npt.NDArray[np.int32]]:
    """Reads CIFAR's binary version.

    Args:
      name: "cifar10" or "cifar100" (its fine labels).
      folders: where to look, in order, for the unpacked files, their folder or the archive.

    Returns:
      Train images uint8 [N, 32, 32, 3] and labels int32 [N], test images and labels.

    Raises:
      InputError: on a missing or damaged file; names it, and the offset or entry.
    """
    layout = LAYOUTS[name]
    contents = _find(name, folders, layout)
    parts = []
    for names in (layout.train, layout.test):
        decoded = [_decode(part, contents.pop(part), layout) for part in names]
        images, labels = zip(*decoded, strict=True)
        parts.append((np.concatenate(images), np.concatenate(labels)))
    (train_images, train_labels), (test_images, test_labels) = parts
    return train_images, train_labels, test_images, test_labels
