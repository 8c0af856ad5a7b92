"""Damaged and hostile data files: named with the offset, never over-allocated, nothing written."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments.data import cifar, datasets
from experiments.entry.errors import InputError
from tests.experiments import lines
from tests.experiments.data import data_files


def _header(dimensions: int, *sizes: int) -> bytes:
    return bytes([0, 0, 8, dimensions]) + struct.pack(f">{len(sizes)}I", *sizes)


def _flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]


_IMAGES = data_files.idx_bytes(data_files.random_idx(12, 12)[0])
_LABELS = data_files.idx_bytes(data_files.random_idx(12, 12)[1])
_ZIPPED = gzip.compress(_IMAGES, mtime=0)
_BOMB = gzip.compress(_header(3, 12, 28, 28) + bytes(100_000_000))
_TRAIN_IMAGES = "train-images-idx3-ubyte"
_TRAIN_LABELS = "train-labels-idx1-ubyte"

# (file of MNIST, its content or None for no file, what the line must name).
IDX_CASES: list[tuple[str, bytes | None, str]] = [
    (_TRAIN_IMAGES, None, "expected the file train-images-idx3-ubyte"),
    (_TRAIN_LABELS, None, "expected the file train-labels-idx1-ubyte"),
    (_TRAIN_IMAGES, b"", "offset 0: expected 4 bytes"),
    (_TRAIN_IMAGES, _IMAGES[:3], "offset 3: expected 4 bytes"),
    (_TRAIN_IMAGES, _IMAGES[:9], "found the end after 5"),
    (_TRAIN_IMAGES, _IMAGES[:-1], "expected 9424 bytes in all for 12 examples, found 9423"),
    (_TRAIN_IMAGES, _IMAGES + b"x", "found 9425 bytes"),
    (_TRAIN_IMAGES, b"\x89PNG" + _IMAGES[4:], "offset 0 (magic): expected 00000803"),
    (_TRAIN_IMAGES, _LABELS, "found 00000801"),
    (_TRAIN_LABELS, _IMAGES, "found 00000803"),
    (_TRAIN_IMAGES, _header(3, 0, 28, 28), "offset 4 (count): expected 1 to 300000"),
    (_TRAIN_IMAGES, _header(3, 2**32 - 1, 28, 28), "found 4294967295"),
    (_TRAIN_IMAGES, _header(3, 12, 2**32 - 1, 2**32 - 1), "offset 8 (rows, columns)"),
    (_TRAIN_IMAGES, _header(3, 12, 0, 28), "found 0 by 28"),
    (_TRAIN_IMAGES, _header(3, 300_000, 28, 28), "expected 235200016 bytes in all"),
    (_TRAIN_IMAGES, gzip.compress(_header(3, 300_000, 28, 28)), "expected no more than"),
    (_TRAIN_IMAGES, _BOMB, "expected the end after 12 examples"),
    (_TRAIN_IMAGES, _ZIPPED[: len(_ZIPPED) // 2], "damaged compressed data"),
    (_TRAIN_IMAGES, _ZIPPED[:-4], "expected the end of sound compressed data"),
    (_TRAIN_IMAGES, _flip(_ZIPPED, len(_ZIPPED) - 6), "CRC"),
    (_TRAIN_IMAGES, _ZIPPED[:10] + b"\xff" * 40, "damaged compressed data"),
    (_TRAIN_IMAGES, _ZIPPED[:2], "damaged compressed data"),
    (_TRAIN_LABELS, _LABELS[:-1] + b"\x0a", "label of example 11): expected 0 to 9, found 10"),
    (_TRAIN_LABELS, _header(1, 11) + bytes(11), "expected 12 labels, one an image, found 11"),
    (_TRAIN_LABELS, _header(1, 2**31), "offset 4 (count)"),
]


@pytest.mark.parametrize(("name", "content", "named"), IDX_CASES, ids=range(len(IDX_CASES)))
def test_damaged_idx_files_are_named(
    tmp_path: Path, name: str, content: bytes | None, named: str
) -> None:
    """File, offset and mend are said, and nothing is allocated that the file does not hold."""
    data_files.write_mnist(tmp_path, zipped=False)
    path = tmp_path / name
    path.unlink() if content is None else path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as raised:
            datasets.load("mnist", str(tmp_path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    lines.check(raised.value, named)
    assert name in str(raised.value)
    assert peak < 8 << 20


def test_every_bit_flip_of_a_zipped_file_is_noticed_or_harmless(tmp_path: Path) -> None:
    """Flipped bytes anywhere raise the line or, in gzip's own time stamp, change nothing."""
    data_files.write_mnist(tmp_path)
    path = tmp_path / f"{_TRAIN_IMAGES}.gz"
    sound = path.read_bytes()
    images = datasets.load("mnist", str(tmp_path)).train_images
    refused = 0
    places = np.random.default_rng(0).choice(len(sound), 150, replace=False)
    for place in [*range(10), *places.tolist(), *range(len(sound) - 8, len(sound))]:
        path.write_bytes(_flip(sound, place))
        try:
            loaded = datasets.load("mnist", str(tmp_path))
        except InputError as error:
            lines.check(error, path.name)
            refused += 1
        else:
            np.testing.assert_array_equal(loaded.train_images, images)
    assert refused >= 150


def test_a_pipe_a_folder_and_a_dead_link_are_not_read(tmp_path: Path) -> None:
    """What is not a regular file is refused instead of read for ever."""
    data_files.write_mnist(tmp_path, zipped=False)
    path = tmp_path / _TRAIN_IMAGES
    for make in (os.mkfifo, os.mkdir, lambda place: os.symlink("/nowhere", place)):
        path.unlink(missing_ok=True) if not path.is_dir() else path.rmdir()
        make(path)
        with pytest.raises(InputError) as raised:
            datasets.load("mnist", str(tmp_path))
        lines.check(raised.value, path.name)


def _link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = tarfile.SYMTYPE
    member.linkname = target
    return member


def _entry(name: str, size: int = 10) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member


@pytest.mark.parametrize(
    "member",
    [
        _entry("../outside.bin"),
        _entry("cifar-10-batches-bin/../../outside.bin"),
        _entry("/tmp/outside.bin"),
        _link("cifar-10-batches-bin/link", "/etc/passwd"),
        _link("cifar-10-batches-bin/data_batch_1.bin", "../../../etc/passwd"),
    ],
    ids=lambda member: member.name,
)
def test_hostile_archives_touch_nothing(tmp_path: Path, member: tarfile.TarInfo) -> None:
    """Paths out of the archive's folder and links are refused; nothing is written anywhere."""
    path = data_files.write_cifar_archive(tmp_path / "data", "cifar10", extra=(member,))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as raised:
        datasets.load("cifar10", str(tmp_path / "data"))
    lines.check(raised.value, f"{path}: entry {member.name}")
    assert sorted(tmp_path.rglob("*")) == before


def _tar_bomb() -> bytes:
    """An archive whose extended header claims, and holds, 300 MB of zeros."""
    header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.PAX_FORMAT)[:512])
    header[124:136] = b"%011o\0" % 300_000_000
    header[156:157] = b"x"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(bytes(header))]
    parts += [packer.compress(bytes(1_000_000)) for _ in range(300)]
    return b"".join([*parts, packer.flush()])


_LAYOUT = cifar.LAYOUTS["cifar10"]
_ARCHIVE = "archive"
# (damage to the archive or to a file of the folder, what the line must name).
CIFAR_CASES: list[tuple[str, Callable[[bytes], bytes] | None, str]] = [
    (_ARCHIVE, lambda data: data[: len(data) // 2], "expected a sound tar.gz archive"),
    (_ARCHIVE, lambda _: b"", "archive"),
    (_ARCHIVE, lambda _: b"not an archive at all", "expected a sound tar.gz archive"),
    (_ARCHIVE, lambda _: gzip.compress(b"no tar" * 500), "archive"),
    (_ARCHIVE, lambda _: gzip.compress(bytes(10240)), "expected the entry"),
    (_ARCHIVE, lambda data: _flip(data, len(data) // 2), "archive"),
    (_ARCHIVE, lambda _: _tar_bomb(), "expected at most 268435456 bytes"),
    ("data_batch_3.bin", None, "data_batch_3.bin"),
    ("data_batch_3.bin", lambda _: b"", "records of 3073 bytes, found 0 bytes"),
    ("data_batch_3.bin", lambda data: data[:-1], "records of 3073 bytes"),
    ("test_batch.bin", lambda data: _flip(data[:3073], 0), "(label of example 0)"),
    (
        "data_batch_2.bin",
        lambda data: data[:3073] + b"\x0a" + data[3074:],
        "offset 3073 (label of example 1): expected 0 to 9, found 10",
    ),
]


@pytest.mark.parametrize(("place", "damage", "named"), CIFAR_CASES, ids=range(len(CIFAR_CASES)))
def test_damaged_cifar_files_are_named(
    tmp_path: Path, place: str, damage: Callable[[bytes], bytes] | None, named: str
) -> None:
    """A damaged archive or file is named, with the entry or the offset."""
    if place == _ARCHIVE:
        path = data_files.write_cifar_archive(tmp_path, "cifar10")
    else:
        for file, content in data_files.cifar_files("cifar10").items():
            (tmp_path / file).write_bytes(content)
        path = tmp_path / place
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError) as raised:
        datasets.load("cifar10", str(tmp_path))
    lines.check(raised.value, named)


def test_pickles_are_named_and_never_read(tmp_path: Path) -> None:
    """CIFAR's Python version is recognised, and refused because it holds pickles."""
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"would run code when unpickled")
    with pytest.raises(InputError) as raised:
        datasets.load("cifar10", str(tmp_path))
    lines.check(raised.value, "holds pickles and is never read")


def test_damaged_digits_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A digits.npz that is cut, empty, absent or holds pickled objects is one line."""
    sound = Path(datasets.DIGITS_PATH).read_bytes()
    pickled = io.BytesIO()
    np.savez(pickled, images=np.array([{"a": 1}], dtype=object))
    path = tmp_path / "digits.npz"
    monkeypatch.setattr(datasets, "DIGITS_PATH", str(path))
    for content in (None, b"", sound[:1000], sound[:-30], _flip(sound, 3000), pickled.getvalue()):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError) as raised:
            datasets.load("digits")
        lines.check(raised.value, "digits.npz")
