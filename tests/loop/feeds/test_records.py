"""TFRecord shards read at random, against the same examples from arrays."""

import os
import pathlib
import struct

import numpy as np
import pytest
import tensorflow as tf

import loop
from loop import distribute
from loop.feeds import DamagedRecordError, FeedError, RecordFiles, Records, layout
from loop.feeds.crc32c import masked_crc32c
from tests.loop import steps
from tests.loop.feeds import feed_runs


def _write(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return path


def _example(x, y):
    features = {"x": tf.train.FloatList(value=x), "y": tf.train.FloatList(value=[y])}
    return tf.train.Example(
        features=tf.train.Features(
            feature={name: tf.train.Feature(float_list=value) for name, value in features.items()}
        )
    ).SerializeToString()


def write_examples(directory, data, cuts):
    """The examples of `data` in one file for each (low, high) of `cuts`."""
    directory.mkdir(exist_ok=True)
    examples = [_example(x, y) for x, y in zip(data["x"], data["y"], strict=True)]
    return [
        _write(directory / f"{number}.tfrecord", examples[low:high])
        for number, (low, high) in enumerate(cuts)
    ]


def parse(serialized):
    """The examples that `write_examples` wrote."""
    return tf.io.parse_example(
        serialized,
        {"x": tf.io.FixedLenFeature([5], tf.float32), "y": tf.io.FixedLenFeature([], tf.float32)},
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The 37 examples of `feed_runs.data` in three files of unequal size."""
    cuts = [(0, 20), (20, 21), (21, 37)]
    return write_examples(tmp_path_factory.mktemp("shards"), feed_runs.data(), cuts)


def _feed(shards, **options):
    return Records(shards, parse, **{"batch_size": feed_runs.BATCH, "seed": 5, **options})


def test_a_run_is_that_of_arrays(shards, tmp_path):
    """The same order, so the same run bit for bit: uncut, cut and resumed, stopped and gone on."""
    expected = feed_runs.trained(feed_runs.arrays_feed())
    assert steps.same(feed_runs.trained(_feed(shards)), expected)
    assert steps.same(feed_runs.cut(lambda: _feed(shards), tmp_path / "cut"), expected)
    assert steps.same(feed_runs.stopped(_feed(shards, threads=3)), expected)


@pytest.mark.parametrize("options", [{}, {"threads": 4}, {"shuffle": False}])
def test_chunks_are_those_of_arrays(shards, options):
    """Anywhere in the run, on one replica and on each of three; padding rows stay unread."""
    shuffle = options.get("shuffle", True)
    arrays, data = feed_runs.arrays_feed(shuffle=shuffle), feed_runs.data()
    feed = _feed(shards, **options)
    empty = feed.chunk(4, 0, 3, layout(feed_runs.BATCH))
    assert {name: array.shape for name, array in empty.items()} == {
        "batch/x": (3, 8, 5),
        "batch/y": (3, 8),
    }
    for first in (0, 4, 10**9):
        for replica in range(3):
            place = layout(feed_runs.BATCH, replicas=3, replica=replica)
            chunk = feed.chunk(first, 2, 3, place)
            index = arrays.chunk(first, 3, 3, place)["index"][:2]
            assert np.array_equal(chunk["batch/x"][:2], data["x"][index])
            assert np.array_equal(chunk["batch/y"][:2], data["y"][index])
            assert not chunk["batch/x"][2].any()
            assert np.array_equal(chunk["mask"], np.broadcast_to(place.mask, (3, 3)))
        assert np.array_equal(feed.example_ids(first), arrays.example_ids(first))


@pytest.mark.parametrize(("replicas", "accumulate"), [(1, 1), (1, 4), (2, 1), (2, 4), (3, 1)])
def test_partners_are_those_of_arrays(shards, replicas, accumulate):
    """Both batches of a step, on slices and micro-batches, padded ones too; none is read twice."""
    feeds = feed_runs.arrays_feed(partners=True), _feed(shards, partners=True)
    read = []
    original = feeds[1].files.read
    feeds[1].files.read = lambda records: read.append(records) or original(records)
    for replica in range(replicas):
        place = layout(feed_runs.BATCH, replicas=replicas, replica=replica, accumulate=accumulate)
        found = []
        for feed in feeds:
            resident = feed.resident()
            chunk = {n: tf.constant(a) for n, a in feed.chunk(3, 2, 3, place).items()}
            batches = [feed.batch(resident, chunk, tf.constant(row)) for row in range(2)]
            found.append((batches, chunk.get("mask")))
        (expected, mask), (streamed, streamed_mask) = found
        tf.nest.map_structure(lambda a, b: np.testing.assert_array_equal(a, b), expected, streamed)
        assert (mask is None) == (streamed_mask is None)
        assert mask is None or np.array_equal(mask, streamed_mask)
    if replicas == 1:  # Each is its own batch's partner: the first record, then two batches.
        assert sum(map(len, read[1:])) == 2 * feed_runs.BATCH


def test_an_evaluation_streams_every_record_once(shards):
    """37 records in batches of 8 over calls of 2 batches: NumPy's mean, in one trace."""
    evaluation = loop.Evaluation(
        lambda batch: {"y": batch["y"]}, _feed(shards), batches_per_call=2
    ).compiled("xla", distribute.single())
    y = feed_runs.data()["y"].astype(np.float64)
    for _ in range(2):
        np.testing.assert_allclose(evaluation()["y"], y.mean(), rtol=1e-12)
    assert evaluation.traces == 1


def test_records_of_any_length_are_read_whole(tmp_path):
    """No byte, few, and more than a block of the scan; in any order, twice, and by file."""
    random = np.random.default_rng(0)
    lengths = [0, 1, 3, 4, 11, 5000, 0, (1 << 20) + 7, 31, 32, 33, (1 << 20) - 16, 2, 100_000]
    records = [random.bytes(length) for length in lengths]
    paths = [_write(tmp_path / "a", records[:9]), _write(tmp_path / "b", records[9:])]
    files = RecordFiles(paths, threads=2)
    assert files.size == len(records)
    order = np.array([13, 0, 7, 7, 5, 2, 8, 9, 0, 12, 11, 1, 3, 4, 6, 10])
    assert files.read(order) == [records[index] for index in order]
    offset = sum(length + 16 for length in lengths[:7])
    assert files.locate(7) == (paths[0], offset)
    assert files.locate(9) == (paths[1], 0)
    files.close()


def _bitwise(data):
    """CRC-32C by its definition."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _masked(crc):
    """As TFRecord files store it, in integers without a width."""
    return ((crc >> 15 | crc << 17) % 2**32 + 0xA282EAD8) % 2**32


def test_checksums_are_those_of_the_definition():
    """RFC 3720's values, strings of all lengths against bit by bit, and TFRecord's own files."""
    strings = [b"123456789", bytes(32), b"\xff" * 32, bytes(range(32))]
    published = [0xE3069283, 0x8A9136AA, 0x62A8AB43, 0x46DD794E]
    assert masked_crc32c(strings).tolist() == [_masked(crc) for crc in published]
    random = np.random.default_rng(1)
    strings = [random.bytes(length) for length in [*range(70), 127, 128, 129, 1021]]
    assert masked_crc32c(strings).tolist() == [_masked(_bitwise(string)) for string in strings]
    assert masked_crc32c([]).tolist() == []


def _flipped(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("record", [0, 3, 6])
def test_a_damaged_record_names_file_and_offset(tmp_path, record):
    """A flipped bit in the data or its checksum is found when read; all others can be read."""
    records = [bytes([65 + number]) * (10 + number) for number in range(7)]
    starts = np.cumsum([0, *(len(data) + 16 for data in records)])
    for at in (12, 12 + len(records[record]) + 2):
        path = _write(tmp_path / f"damaged-{at}", records)
        _flipped(path, int(starts[record]) + at)
        files = RecordFiles([path])
        others = np.array([number for number in range(7) if number != record])
        assert files.read(others) == [records[number] for number in others]
        with pytest.raises(
            DamagedRecordError, match=rf"damaged-{at}: damaged record at offset {starts[record]}:"
        ):
            files.read(np.arange(7))


@pytest.mark.parametrize("record", [0, 3, 6])
@pytest.mark.parametrize("at", [0, 7, 9])
def test_a_damaged_length_names_file_and_offset(tmp_path, record, at):
    """A flipped bit in a length, however far it leads, or in its checksum is found on opening."""
    records = [bytes([65 + number]) * (10 + number) for number in range(7)]
    start = sum(len(data) + 16 for data in records[:record])
    path = _write(tmp_path / "damaged", records)
    _flipped(path, start + at)
    with pytest.raises(DamagedRecordError, match=rf"damaged record at offset {start}: its length"):
        RecordFiles([path])


@pytest.mark.parametrize("left", [1, 5, 12, 20, 41, 42, 45, 60])
def test_a_file_cut_short_names_file_and_offset(tmp_path, left):
    """Wherever it was cut, but between two records."""
    path = _write(tmp_path / "cut", [b"a" * 10, b"b" * 15, b"c" * 20])
    os.truncate(path, left)
    last = 0 if left < 26 else 26 if left < 57 else 57
    with pytest.raises(DamagedRecordError, match=rf"cut: .*offset {last}\b"):
        RecordFiles([path])


def test_a_file_cut_after_it_was_opened_is_told(tmp_path):
    """Bytes that are no longer there have no checksum."""
    path = _write(tmp_path / "cut", [b"a" * 10, b"b" * 15])
    files = RecordFiles([path])
    os.truncate(path, 30)
    assert files.read(np.array([0])) == [b"a" * 10]
    with pytest.raises(DamagedRecordError, match="damaged record at offset 26"):
        files.read(np.array([0, 1]))


def test_files_that_are_no_records_are_refused(tmp_path, shards):
    """No file, an empty, a missing, a compressed one; no thread, too large a batch."""
    (tmp_path / "empty").touch()
    options = tf.io.TFRecordOptions(compression_type="GZIP")
    with tf.io.TFRecordWriter(str(tmp_path / "gzip"), options) as writer:
        writer.write(b"a" * 100)
    with pytest.raises(ValueError, match="at least one TFRecord file, found none"):
        RecordFiles([])
    with pytest.raises(FeedError, match="empty: expected TFRecords, found an empty file"):
        RecordFiles([shards[0], tmp_path / "empty"])
    with pytest.raises(FeedError, match=r"missing: cannot be opened \(No such file"):
        RecordFiles([tmp_path / "missing"])
    with pytest.raises(FeedError, match="expected uncompressed TFRecords, found a GZIP"):
        RecordFiles([tmp_path / "gzip"])
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        RecordFiles(shards, threads=0)
    with pytest.raises(ValueError, match="batch_size must be from 1 to the 37 records, got 38"):
        _feed(shards, batch_size=38)


def _failing_on(serialized, number):
    """Fails on the record of that number alone."""
    y = parse(serialized)["y"]
    is_it = y == feed_runs.data()["y"][number]
    return tf.where(is_it, 0, 1) // tf.reduce_min(tf.where(is_it, 0, 1))


@pytest.mark.parametrize(
    ("parse", "message"),
    [
        (
            lambda s: {"n": tf.strings.length(s)[:3]},
            r"'n' of shape \(3,\) for the first record, expected one value for each of 8 records",
        ),
        (lambda s: {"w": tf.strings.split(s)}, "'w' expected to be an array, found RaggedTensor"),
        (lambda s: {"n": tf.strings.to_number(s)}, "failed on .* at offset 0 of .*0.tfrecord"),
        (
            lambda s: {"n": _failing_on(s, 3)},
            "failed on step 0, at the record at offset 192 of",
        ),
    ],
)
def test_a_parse_that_does_not_fit_is_one_line(shards, parse, message):
    """The step, what came, what was expected."""
    feed = Records(shards, parse, batch_size=8, shuffle=False)
    with pytest.raises(FeedError, match=message) as caught:
        feed.chunk(0, 1, 1, layout(8))
    assert "\n" not in str(caught.value)


def _resident_bytes():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_memory_stays_flat_over_an_epoch_of_four_times_the_cap(tmp_path):
    """Two epochs of 96 MB, chunk by chunk, in 24 MB more than the first chunks took."""
    size, count = 48_000, 2000
    data = np.random.default_rng(0).integers(0, 256, [64, size], np.uint8)
    path = _write(
        tmp_path / "large",
        (struct.pack("<I", number) + data[number % 64].tobytes()[4:] for number in range(count)),
    )
    feed = Records(
        [path], lambda s: {"x": tf.io.decode_raw(s, tf.uint8, fixed_length=size)}, batch_size=10
    )
    seen, resident = [], []
    for first in range(0, 2 * count // 10, 4):
        chunk = feed.chunk(first, 4, 4, layout(10))["batch/x"]
        seen.extend(np.ascontiguousarray(chunk[..., :4]).view("<u4").reshape(-1).tolist())
        resident.append(_resident_bytes())
    assert np.bincount(seen).tolist() == [2] * count
    assert max(resident) - resident[4] < count * size / 4
