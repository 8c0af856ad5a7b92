"""The data sets of the experiments, as NumPy arrays. Importable without TensorFlow."""

from __future__ import annotations

import dataclasses
import os
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from experiments.data import cifar, download, idx, sources
from experiments.entry.errors import InputError, alternatives

DIGITS_PATH = os.path.join(os.path.dirname(__file__), "digits.npz")
# Where Debian's package dataset-fashion-mnist puts its files.
DEBIAN_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A classification data set in memory.

    Attributes:
      name: as in `--dataset`.
      train_images: uint8 [N, H, W, C]; pixels stay bytes, the training code scales them on the
        device.
      train_labels: int32 [N], 0..classes-1.
      test_images: uint8 [M, H, W, C].
      test_labels: int32 [M].
      classes: number of classes.
      scale: what a pixel is multiplied with to lie in [0, 1]: 1/16 for digits, else 1/255.
    """

    name: str
    train_images: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.int32]
    test_images: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int32]
    classes: int
    scale: float

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.train_images.shape[1:]
        return height, width, channels


def _load_digits() -> Dataset:
    try:
        with open(DIGITS_PATH, "rb") as file, np.load(file, allow_pickle=False) as archive:
            images, labels = archive["images"], archive["labels"]
            train, test = archive["train"], archive["test"]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            DIGITS_PATH,
            expected="the digits shipped with the package",
            found=f"{type(error).__name__}: {error}",
            mend="install the package again",
        ) from error
    images = images[..., np.newaxis]
    return Dataset(
        name="digits",
        train_images=images[train],
        train_labels=labels[train].astype(np.int32),
        test_images=images[test],
        test_labels=labels[test].astype(np.int32),
        classes=10,
        scale=1 / 16,
    )


def _find(name: str, folders: tuple[str, ...], stem: str) -> str:
    """The plain or gzipped file `stem` in the first of `folders` that has it."""
    for folder in folders:
        for suffix in ("", ".gz"):
            path = os.path.join(folder, stem + suffix)
            if os.path.lexists(path):
                return path
    raise InputError(
        f"--data_dir={folders[-1]}",
        expected=f"the file {stem} or {stem}.gz",
        found="neither",
        mend=f"put the files of {name} there, or fetch them with --download",
    )


def _read_idx_pair(
    name: str, folders: tuple[str, ...], part: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    images = idx.read_images(_find(name, folders, f"{part}-images-idx3-ubyte"))
    path = _find(name, folders, f"{part}-labels-idx1-ubyte")
    labels = idx.read_labels(path, classes=10, count=len(images))
    return images[..., np.newaxis], labels.astype(np.int32)


def _load_idx(name: str, folders: tuple[str, ...]) -> Dataset:
    train_images, train_labels = _read_idx_pair(name, folders, "train")
    test_images, test_labels = _read_idx_pair(name, folders, "t10k")
    return Dataset(
        name, train_images, train_labels, test_images, test_labels, classes=10, scale=1 / 255
    )


def _folders(name: str, data_dir: str | None) -> tuple[str, ...]:
    """Where to read `name` from; without `data_dir`, Debian's folder for Fashion-MNIST."""
    if data_dir:
        # MNIST's and Fashion-MNIST's files have the same names: the subfolder is the surer place.
        return os.path.join(data_dir, name), data_dir
    if name == "fashion_mnist" and os.path.isdir(DEBIAN_FASHION_MNIST):
        return (DEBIAN_FASHION_MNIST,)
    mend = "give --data_dir=FOLDER with its files, or --data_dir=FOLDER and --download"
    if name == "fashion_mnist":
        mend += ", or install Debian's package dataset-fashion-mnist"
    raise InputError(
        "--data_dir", expected=f"a folder, for --dataset={name}", found="none", mend=mend
    )


def _download(name: str, folder: str, report: Callable[[str], None] | None) -> None:
    """Fetches the files of `name` that are not in `folder`, plain or as published."""
    for source in sources.SOURCES[name]:
        path = os.path.join(folder, source.name)
        if not (os.path.exists(path) or os.path.exists(path.removesuffix(".gz"))):
            download.fetch(source, path, report=report)


def load(
    name: str,
    data_dir: str | None = None,
    *,
    fetch_missing: bool = False,
    report: Callable[[str], None] | None = None,
) -> Dataset:
    """Reads a data set into memory, checking every file before trusting it.

    Args:
      name: "digits" (shipped), "mnist", "fashion_mnist" (IDX files), "cifar10" or "cifar100"
        (binary version, unpacked or not).
      data_dir: the folder of the files, or one with a subfolder `name`; not for digits.
        Fashion-MNIST without it is taken from Debian's package dataset-fashion-mnist.
      fetch_missing: whether to fetch missing files into the subfolder `name` of `data_dir`, and
        read only from there.
      report: takes a line about each file fetched; None to say nothing.

    Returns:
      The data set.

    Raises:
      InputError: on a missing or damaged file, an unknown name; says how to mend it.
    """
    if name == "digits":
        return _load_digits()
    if name not in sources.SOURCES:
        raise InputError(
            "--dataset",
            expected=alternatives(["digits", *sources.SOURCES]),
            found=name,
            mend="choose one of them",
        )
    folders = _folders(name, data_dir)
    if fetch_missing and data_dir:
        folders = folders[:1]
        _download(name, folders[0], report)
    if name in cifar.LAYOUTS:
        return Dataset(
            name, *cifar.read(name, folders), classes=cifar.LAYOUTS[name].classes, scale=1 / 255
        )
    return _load_idx(name, folders)
