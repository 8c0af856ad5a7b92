"""A data set's training examples as TFRecord shards: written once, then streamed.

The shards of data set NAME are in FOLDER/NAME, beside an index that says which examples they hold
and how large each file is. They are written under another name and renamed, so that what a killed
run leaves is never taken for them; the next one removes it. Of several processes that write at
once, one is first and the others take its shards.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf

import loop
from experiments.data.datasets import Dataset
from experiments.entry.errors import InputError

INDEX_FILE = "index.json"
SHARD_BYTES = 2**26
_FORMAT = 1


def feed(folder: Path, data: Dataset, **options: Any) -> loop.feeds.Records:
    """Streams the training examples from their shards, in the order of `Arrays` over them.

    Args:
      folder: as for `paths`.
      data: as for `paths`.
      **options: of `loop.feeds.Records`.

    Raises:
      InputError: as `paths`, and on a shard that is damaged where opening sees it.
    """
    files = paths(folder, data)
    try:
        return stream(files, data.image_shape, **options)
    except loop.feeds.FeedError as error:
        _refuse(folder / data.name, "sound shards", error)


def stream(
    files: Sequence[Path], image_shape: tuple[int, int, int], **options: Any
) -> loop.feeds.Records:
    """Streams the examples of these shards.

    Args:
      files: in the order of their numbers.
      image_shape: height, width, channels.
      **options: of `loop.feeds.Records`.

    Raises:
      FeedError: on a shard that is damaged where opening sees it.
    """

    def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        features = tf.io.parse_example(
            serialized,
            {
                "image": tf.io.FixedLenFeature([], tf.string),
                "label": tf.io.FixedLenFeature([], tf.int64),
            },
        )
        pixels = tf.io.decode_raw(features["image"], tf.uint8)
        return {
            "image": tf.reshape(pixels, [-1, *image_shape]),
            "label": tf.cast(features["label"], tf.int32),
        }

    return loop.feeds.Records(files, parse, **options)


def paths(folder: Path, data: Dataset, *, shard_bytes: int = SHARD_BYTES) -> list[Path]:
    """The shards, in order; written if there are none.

    Args:
      folder: where the data sets' shards are, each in a folder of its name.
      data: whose training examples they hold.
      shard_bytes: about how large a shard may be; one example more.

    Raises:
      InputError: if they cannot be written, or what is there is not all of this data set's.
    """
    place = folder / data.name
    examples = _digest(data)
    try:
        _remove_abandoned(place)
        if not place.is_dir() or not any(place.iterdir()):
            _write(place, data, examples, shard_bytes)
        return _verified(place, examples, len(data.train_images))
    except (OSError, tf.errors.OpError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.message
        raise InputError(
            f"--records={folder}",
            expected="a folder that shards can be written to and read from",
            found=str(reason).splitlines()[0],
            mend="choose another folder, or make room and let it be written to",
        ) from error


def _digest(data: Dataset) -> str:
    """The SHA-256 of the training examples, their shapes with them."""
    digest = hashlib.sha256()
    for array in (data.train_images, data.train_labels):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@contextlib.contextmanager
def _draft(place: Path) -> Iterator[Path]:
    """A folder to write in, locked while this process lives."""
    place.parent.mkdir(parents=True, exist_ok=True)
    while True:
        draft = place.with_name(f".{place.name}-{os.getpid()}-{secrets.token_hex(4)}")
        draft.mkdir()
        descriptor = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if draft.exists():
            break
        os.close(descriptor)  # Another process took it for abandoned before the lock.
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        os.close(descriptor)


def _remove_abandoned(place: Path) -> None:
    """Removes the drafts of writers that were killed: those that nobody holds locked."""
    for draft in place.parent.glob(f".{place.name}-*-*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(draft)
            finally:
                os.close(descriptor)


def _write(place: Path, data: Dataset, examples: str, shard_bytes: int) -> None:
    with _draft(place) as draft:
        names = list(_write_shards(draft, data, shard_bytes))
        index = {
            "format": _FORMAT,
            "dataset": data.name,
            "examples": len(data.train_images),
            "sha256": examples,
            "shards": {name: (draft / name).stat().st_size for name in names},
        }
        (draft / INDEX_FILE).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        try:
            draft.rename(place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Another process was first; its shards are looked at as any that are found.


def _write_shards(draft: Path, data: Dataset, shard_bytes: int) -> Iterator[str]:
    """Writes the examples in the order of storage; the name of each finished shard."""
    example_bytes = int(np.prod(data.image_shape))
    each = max(1, shard_bytes // example_bytes)
    for number, first in enumerate(range(0, len(data.train_images), each)):
        name = f"{number:05d}.tfrecord"
        with tf.io.TFRecordWriter(str(draft / name)) as writer:
            for image, label in zip(
                data.train_images[first : first + each],
                data.train_labels[first : first + each].tolist(),
                strict=True,
            ):
                writer.write(_serialized(image.tobytes(), label))
        yield name


def _serialized(image: bytes, label: int) -> bytes:
    feature = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    serialized: bytes = example.SerializeToString()
    return serialized


def _verified(place: Path, examples: str, count: int) -> list[Path]:
    """The shards that the index names, each of its size, and of these examples."""
    path = place / INDEX_FILE
    if not path.exists():
        _refuse(place, f"shards with their {INDEX_FILE}", "other files")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        shards = {str(name): int(size) for name, size in index["shards"].items()}
        found = index["format"], index["sha256"], index["examples"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        _refuse(path, "the index of shards", "something else")
    if found[0] != _FORMAT:
        _refuse(path, f"format {_FORMAT}", found[0])
    if found[1:] != (examples, count):
        _refuse(
            path,
            f"the {count} training examples of this data set, SHA-256 {examples[:12]}...",
            f"{found[2]} of SHA-256 {str(found[1])[:12]}...",
        )
    for name, size in shards.items():
        shard = place / name
        there = shard.stat().st_size if shard.exists() else None
        if there != size:
            _refuse(shard, f"{size} bytes", "no file" if there is None else f"{there} bytes")
    return [place / name for name in shards]


def _refuse(place: Path, expected: str, found: object) -> NoReturn:
    raise InputError(
        str(place),
        expected=expected,
        found=found,
        mend="remove its folder, which is then written again, or give another --records",
    )
