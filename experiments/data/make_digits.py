"""Writes digits.npz from scikit-learn's copy of the UCI digits.

    pip install scikit-learn
    python experiments/data/make_digits.py digits.npz

Run with scikit-learn 1.9.1 and NumPy 2; the arrays depend on neither (RandomState's stream is
frozen), the compressed bytes may on the zlib version.
"""

from __future__ import annotations

import importlib
import sys

import numpy as np
import numpy.typing as npt

TEST_SHARE = 0.2


def split(labels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """The stratified split: a fifth of each class, rounded, is test.

    Args:
      labels: uint8 [N].

    Returns:
      Train indices and test indices, int16, each in a shuffled order, together 0..N-1.
    """
    generator = np.random.RandomState(0)
    train, test = [], []
    for label in range(10):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = round(len(members) * TEST_SHARE)
        test.append(members[:count])
        train.append(members[count:])
    return (
        generator.permutation(np.concatenate(train)).astype(np.int16),
        generator.permutation(np.concatenate(test)).astype(np.int16),
    )


def main(path: str) -> None:
    """Writes the archive to `path`."""
    digits = importlib.import_module("sklearn.datasets").load_digits()
    images = digits.images.astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    if not np.array_equal(images, digits.images) or images.max() != 16:
        raise ValueError(f"make_digits: expected whole numbers 0..16, found up to {images.max()}")
    train, test = split(labels)
    np.savez_compressed(path, images=images, labels=labels, train=train, test=test)


if __name__ == "__main__":
    main(sys.argv[1])
