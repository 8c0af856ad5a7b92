"""A data set's shards: what they hold, and what is refused instead of read."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from experiments.data import datasets, shards
from experiments.entry.errors import InputError
from loop import feeds
from tests.experiments import lines

_SHARD_BYTES = 20_000


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The digits in five shards: (their folder, the data set)."""
    folder, data = tmp_path_factory.mktemp("records"), datasets.load("digits")
    assert len(shards.paths(folder, data, shard_bytes=_SHARD_BYTES)) == 5
    return folder, data


@pytest.fixture
def copy(written, tmp_path):
    """A copy to damage: (the folder, the shards' own folder, the data set)."""
    folder, data = written
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy", tmp_path / "copy" / "digits", data


def test_the_streamed_examples_are_the_resident_ones(written):
    """Every example of an epoch and a half, from shards of bounded size, with its partner."""
    folder, data = written
    files = sorted((folder / "digits").glob("*.tfrecord"))
    assert all(path.stat().st_size < 3 * _SHARD_BYTES for path in files)
    options = {"batch_size": 100, "seed": 3, "partners": True}
    streamed = shards.feed(folder, data, **options)
    resident = feeds.Arrays({"image": data.train_images, "label": data.train_labels}, **options)
    steps = 1 + streamed.size * 3 // 200
    place = feeds.layout(100)
    found = []
    for feed in (streamed, resident):
        held = feed.resident()
        chunk = {n: tf.constant(a) for n, a in feed.chunk(0, steps, steps, place).items()}
        found.append([feed.batch(held, chunk, tf.constant(row)) for row in range(steps)])
    tf.nest.map_structure(lambda a, b: np.testing.assert_array_equal(a, b), *found)
    assert found[0][0]["image"].dtype == tf.uint8
    assert found[0][0]["label"].dtype == tf.int32


def test_shards_that_are_there_are_not_written_again(copy):
    """The second run reads the first one's files; nothing else is left beside them."""
    folder, place, data = copy
    before = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    assert len(shards.paths(folder, data)) == 5
    assert {path: path.stat().st_mtime_ns for path in place.iterdir()} == before
    assert [path.name for path in folder.iterdir()] == ["digits"]


def test_of_two_writers_the_first_ones_shards_stay(copy, monkeypatch, tmp_path):
    """A process that finds other shards when it renames its own takes those."""
    _, place, data = copy
    elsewhere = tmp_path / "elsewhere"
    original = shards._write_shards

    def while_another_writes(draft, data, shard_bytes):
        yield from original(draft, data, shard_bytes)
        shutil.copytree(place, elsewhere / "digits")

    monkeypatch.setattr(shards, "_write_shards", while_another_writes)
    assert len(shards.paths(elsewhere, data)) == 5
    assert [path.name for path in elsewhere.iterdir()] == ["digits"]


_WRITER = """
import pathlib, sys, time
from experiments.data import datasets, shards
write = shards._write_shards
def slow(*arguments):
    for name in write(*arguments):
        yield name
        print(name, flush=True)
        time.sleep(60)
shards._write_shards = slow
shards.paths(pathlib.Path(sys.argv[1]), datasets.load("digits"), shard_bytes=20_000)
"""


def test_what_a_killed_writer_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path):
    """The draft of a killed process goes with the next start; that of a living one stays."""
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    data = datasets.load("digits")
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True
    ) as writer:
        try:
            assert writer.stdout.readline() == "00000.tfrecord\n"
            (draft,) = tmp_path.glob(".digits-*")
            shards.paths(tmp_path, data, shard_bytes=_SHARD_BYTES)
            assert [path.name for path in draft.iterdir()] == ["00000.tfrecord"]
        finally:
            writer.kill()
    assert len(shards.paths(tmp_path, data, shard_bytes=_SHARD_BYTES)) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    """A full disk, as the writer tells it, is one line; the next run writes anew."""
    data = datasets.load("digits")

    def full(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device\nat once")

    with monkeypatch.context() as patched:
        patched.setattr(shards, "_serialized", full)
        with pytest.raises(InputError, match="found No space left on device; to mend") as caught:
            shards.paths(tmp_path / "new", data)
    lines.check(caught.value, "--records")
    assert list((tmp_path / "new").iterdir()) == []
    assert len(shards.paths(tmp_path / "new", data)) == 1


def _without_index(place):
    (place / shards.INDEX_FILE).unlink()


def _cut_index(place):
    path = place / shards.INDEX_FILE
    path.write_text(path.read_text()[:40])


def _newer_format(place):
    path = place / shards.INDEX_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))


def _cut_shard(place):
    path = place / "00002.tfrecord"
    path.write_bytes(path.read_bytes()[:-1])


def _lost_shard(place):
    (place / "00004.tfrecord").unlink()


def _damaged_shard(place):
    path = place / "00001.tfrecord"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_without_index, "shards with their index.json, found other files"),
        (_cut_index, "the index of shards, found something else"),
        (_newer_format, "expected format 1, found 2"),
        (_cut_shard, "00002.tfrecord"),
        (_lost_shard, "found no file"),
        (_damaged_shard, "damaged record at offset 0"),
    ],
)
def test_what_is_half_written_or_damaged_is_refused(copy, damage, named):
    """One line that names the file and how to mend it."""
    folder, place, data = copy
    damage(place)
    with pytest.raises(InputError) as caught:
        shards.feed(folder, data, batch_size=8)
    lines.check(caught.value, named)


def test_shards_of_other_examples_are_refused(copy):
    """One pixel, one label, or the order of examples differs."""
    folder, _, data = copy
    images = data.train_images.copy()
    images[700, 3, 4, 0] ^= 1
    turned = slice(None, None, -1)
    others = [
        dataclasses.replace(data, train_images=images),
        dataclasses.replace(data, train_labels=np.roll(data.train_labels, 1)),
        dataclasses.replace(
            data, train_images=data.train_images[turned], train_labels=data.train_labels[turned]
        ),
    ]
    for other in others:
        with pytest.raises(InputError) as caught:
            shards.paths(folder, other)
        lines.check(caught.value, "training examples of this data set")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    """A file in its place."""
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as caught:
        shards.paths(Path(tmp_path / "file" / "records"), datasets.load("digits"))
    lines.check(caught.value, "a folder that shards can be written to")
