"""The data sets that are read from files: digits, MNIST, Fashion-MNIST, CIFAR."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.data import cifar, datasets, make_digits
from experiments.entry.errors import InputError
from tests.experiments.data import data_files


def test_digits_are_whole_and_scaled_to_one() -> None:
    """The shipped digits have 1,797 examples, every class, and pixels that scale to 0..1."""
    digits = datasets.load("digits")
    assert digits.image_shape == (8, 8, 1)
    assert (len(digits.train_images), len(digits.test_images)) == (1438, 359)
    assert digits.train_images.dtype == np.uint8
    assert digits.train_labels.dtype == np.int32
    assert digits.train_images.max() * digits.scale == 1.0
    assert set(digits.train_labels) == set(digits.test_labels) == set(range(10))


def test_split_is_the_stratified_one_of_the_script() -> None:
    """The stored split is what make_digits draws: disjoint, complete, a fifth of each class."""
    with np.load(datasets.DIGITS_PATH, allow_pickle=False) as archive:
        labels, train, test = archive["labels"], archive["train"], archive["test"]
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(labels)))
    counts = np.bincount(labels)
    np.testing.assert_array_equal(np.bincount(labels[test]), np.rint(counts * 0.2))
    for stored, drawn in zip((train, test), make_digits.split(labels), strict=True):
        np.testing.assert_array_equal(stored, drawn)


def test_readme_states_the_archives_sha256() -> None:
    """The checksum in the data folder's README is the shipped file's."""
    path = Path(datasets.DIGITS_PATH)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest in path.with_name("README.md").read_text()


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files_round_trip(tmp_path: Path, zipped: bool) -> None:
    """What was written as IDX, gzipped or not, is read back exactly."""
    data_files.write_mnist(tmp_path, zipped=zipped)
    mnist = datasets.load("mnist", str(tmp_path))
    images, labels = data_files.random_idx(12, 12)
    np.testing.assert_array_equal(mnist.train_images[..., 0], images)
    np.testing.assert_array_equal(mnist.train_labels, labels)
    images, labels = data_files.random_idx(5, 5)
    np.testing.assert_array_equal(mnist.test_images[..., 0], images)
    np.testing.assert_array_equal(mnist.test_labels, labels)
    assert mnist.scale == 1 / 255


def test_subfolder_wins_over_files_of_the_same_names(tmp_path: Path) -> None:
    """Fashion-MNIST is taken from its own subfolder although MNIST's files lie beside it."""
    data_files.write_mnist(tmp_path, seed=0)
    data_files.write_mnist(tmp_path / "fashion_mnist", seed=100)
    fashion = datasets.load("fashion_mnist", str(tmp_path))
    np.testing.assert_array_equal(fashion.train_images[..., 0], data_files.random_idx(112, 12)[0])


def test_fashion_mnist_is_found_where_debian_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --data_dir the files of Debian's package are read, and its absence is explained."""
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", str(tmp_path / "debian"))
    with pytest.raises(InputError, match="dataset-fashion-mnist"):
        datasets.load("fashion_mnist")
    data_files.write_mnist(tmp_path / "debian")
    assert len(datasets.load("fashion_mnist").test_images) == 5


def _expected_cifar(name: str, files: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The truth, pixel by pixel from the format's description."""
    layout = cifar.LAYOUTS[name]
    content = data_files.cifar_files(name)
    images, labels = [], []
    for file in files:
        data = content[file]
        for start in range(0, len(data), layout.record):
            record = data[start : start + layout.record]
            labels.append(record[layout.label_bytes - 1])
            image = np.zeros((32, 32, 3), np.uint8)
            for channel in range(3):
                first = layout.label_bytes + 1024 * channel
                plane = np.frombuffer(record[first : first + 1024], np.uint8)
                image[:, :, channel] = plane.reshape(32, 32)
            images.append(image)
    return np.stack(images), np.array(labels)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("form", ["archive", "folder", "files"])
def test_cifar_is_read_as_its_format_says(tmp_path: Path, name: str, form: str) -> None:
    """Archive, its folder and loose files give the same images, channels last, and fine labels."""
    layout = cifar.LAYOUTS[name]
    if form == "archive":
        data_files.write_cifar_archive(tmp_path, name)
    else:
        folder = tmp_path / layout.folder if form == "folder" else tmp_path
        folder.mkdir(exist_ok=True)
        for file, content in data_files.cifar_files(name).items():
            (folder / file).write_bytes(content)
    loaded = datasets.load(name, str(tmp_path))
    images, labels = _expected_cifar(name, layout.train)
    np.testing.assert_array_equal(loaded.train_images, images)
    np.testing.assert_array_equal(loaded.train_labels, labels)
    images, labels = _expected_cifar(name, layout.test)
    np.testing.assert_array_equal(loaded.test_images, images)
    np.testing.assert_array_equal(loaded.test_labels, labels)
    assert loaded.classes == layout.classes


def test_reading_writes_nothing_beside_the_archive(tmp_path: Path) -> None:
    """An archive is read in memory: no file appears anywhere near it."""
    data_files.write_cifar_archive(tmp_path / "data", "cifar10")
    before = sorted(tmp_path.rglob("*"))
    datasets.load("cifar10", str(tmp_path / "data"))
    assert sorted(tmp_path.rglob("*")) == before


def test_data_and_flags_are_read_without_tensorflow() -> None:
    """Bad flags and files are found before TensorFlow, which takes seconds, is imported."""
    code = (
        "import sys; from experiments import entry, flags; from experiments.data import datasets;"
        "datasets.load('digits'); flags.parse(['train']); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
