"""Writes small data set files, sound ones, for tests to read or to damage."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from experiments.data import cifar

UINT8 = npt.NDArray[np.uint8]


def idx_bytes(array: UINT8) -> bytes:
    """An IDX file of unsigned bytes."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def random_idx(seed: int, count: int) -> tuple[UINT8, UINT8]:
    """Random images [count, 28, 28] and labels [count]."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return images, generator.integers(0, 10, count, dtype=np.uint8)


def write_mnist(folder: Path, *, zipped: bool = True, seed: int = 0, train_count: int = 12) -> None:
    """Training examples and five test examples under MNIST's four names."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train_count), ("t10k", 5)):
        images, labels = random_idx(seed + count, count)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{part}-{kind}-ubyte"
            if zipped:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(idx_bytes(array)))
            else:
                path.write_bytes(idx_bytes(array))


def cifar_bytes(layout: cifar.Layout, seed: int, count: int) -> bytes:
    """Random records of CIFAR's binary version."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, layout.classes, (count, layout.label_bytes), dtype=np.uint8)
    pixels = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
    return np.concatenate([labels, pixels], axis=1).tobytes()


def cifar_files(name: str) -> dict[str, bytes]:
    """The name and content of each file, three or more examples each."""
    layout = cifar.LAYOUTS[name]
    return {
        file: cifar_bytes(layout, seed, 3 + seed)
        for seed, file in enumerate(layout.train + layout.test)
    }


def write_cifar_archive(
    folder: Path, name: str, *, extra: tuple[tarfile.TarInfo, ...] = ()
) -> Path:
    """The published archive's structure around `cifar_files`, with `extra` entries at its end."""
    layout = cifar.LAYOUTS[name]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / layout.archive
    with tarfile.open(path, "w:gz") as archive:
        directory = tarfile.TarInfo(layout.folder)
        directory.type = tarfile.DIRTYPE
        archive.addfile(directory)
        for file, content in cifar_files(name).items():
            member = tarfile.TarInfo(f"{layout.folder}/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in extra:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path
