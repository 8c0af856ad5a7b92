"""Every kind of bad input: one line that says what, where, expected, found and how to mend."""

from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments import cifar, datasets, entry, flags
from experiments.errors import InputError
from tests.experiments import data_files

# (arguments, what the line must name). {tmp} is a folder that holds the file "file" and the
# folders "folder" and "mnist"; {flagfiles} holds the damaged flagfiles.
FLAG_CASES: list[tuple[str, str]] = [
    # Numbers out of range.
    ("--learning_rate=nan", "--learning_rate: expected a number above 0"),
    ("--learning_rate=inf", "found inf"),
    ("--learning_rate=-inf", "found -inf"),
    ("--learning_rate=0", "found 0.0"),
    ("--learning_rate=-0.1", "found -0.1"),
    ("--learning_rate=1e300", "within float32, found 1e+300"),
    ("--learning_rate=1e-60", "within float32, found 1e-60"),
    ("--learning_rate=fast", "found fast"),
    ("--learning_rate=", "--learning_rate: expected a number above 0"),
    ("--batch_size=0", "--batch_size: expected a whole number from 1 up, found 0"),
    ("--batch_size=-4", "found -4"),
    ("--batch_size=1.5", "found 1.5"),
    ("--batch_size=3000000000", "--batch_size"),
    ("--steps=0", "--steps"),
    ("--steps=99999999999999999999", "--steps"),
    ("--epochs=0", "--epochs"),
    ("--epochs=two", "found two"),
    ("--seed=-1", "--seed"),
    ("--seed=9223372036854775808", "--seed"),
    ("--momentum=1 --optimizer=momentum", "--momentum: expected a number from 0 below 1"),
    ("--momentum=-0.1 --optimizer=momentum", "--momentum"),
    ("--momentum=nan --optimizer=momentum", "found nan"),
    ("--weight_decay=-1", "--weight_decay"),
    ("--dropout=1", "--dropout: expected a number from 0 below 1, found 1.0"),
    ("--dropout=-0.5", "--dropout"),
    ("--clip_norm=-1", "--clip_norm: expected a number above 0"),
    ("--clip=global_norm --clip_norm=-1", "found -1.0"),
    ("--clip=global_norm --clip_norm=0", "found 0.0"),
    ("--clip=norm --clip_norm=nan", "found nan"),
    ("--accumulate=0", "--accumulate"),
    ("--log_every=0", "--log_every"),
    ("--eval_every=-1", "--eval_every"),
    ("--checkpoint_every=-5", "--checkpoint_every"),
    ("--steps_per_call=-1", "--steps_per_call"),
    ("--rotation=181", "--rotation: expected a number from 0 to 180"),
    ("--shift=1", "--shift"),
    ("--zoom=1.5", "--zoom"),
    ("--shear=90", "--shear"),
    ("--crop=-1", "--crop"),
    ("--cutout=1000", "--cutout"),
    ("--mixup=-0.1", "--mixup"),
    ("--virtual_devices=-2", "--virtual_devices"),
    ("--on_nonfinite=skip --max_nonfinite=0", "--max_nonfinite"),
    ("--schedule=exponential --decay_steps=0", "--decay_steps"),
    ("--schedule=exponential --decay_steps=5 --decay_rate=0", "--decay_rate"),
    ("--schedule=cosine --decay_alpha=2", "--decay_alpha"),
    ("--schedule=one_cycle --warmup_fraction=1", "--warmup_fraction"),
    ("--schedule=cosine_restarts --decay_steps=5 --t_mul=0.5", "--t_mul"),
    ("--warmup_steps=-1", "--warmup_steps"),
    # Unknown choices, flags and words.
    ("--dataset=imagenet", "expected digits, mnist, fashion_mnist, cifar10 or cifar100"),
    ("--dataset=fashion-mnist", "did you mean --dataset=fashion_mnist?"),
    ("--model=cmn", "did you mean --model=cnn?"),
    ("--optimizer=adamww", "did you mean --optimizer=adamw?"),
    ("--optimizer=", "--optimizer"),
    ("--schedule=linear", "--schedule"),
    ("--clip=globalnorm", "did you mean --clip=global_norm?"),
    ("--precision=float16", "--precision"),
    ("--compile=jit", "--compile: expected xla, graph, eager or auto, found jit"),
    ("--augment=all", "--augment"),
    ("--strategy=mirorred", "did you mean --strategy=mirrored?"),
    ("--batch_norm=sync", "--batch_norm"),
    ("--on_nonfinite=ignore", "--on_nonfinite"),
    ("--lerning_rate=0.1", "did you mean --learning_rate?"),
    ("--unheard_of", "--unheard_of: expected a known flag"),
    ("--nobatch_size", "did you mean --batch_size?"),
    ("--download=perhaps", "--download: expected true or false, found perhaps"),
    ("--nodownload=1", "--nodownload: expected no value"),
    ("--steps", "--steps: expected a whole number from 1 up, found nothing"),
    ("digits", "expected flags only, found the argument 'digits'"),
    ("--seed=1 cnn --steps=3", "found the argument 'cnn'"),
    ("-- --steps=3", "found the argument '--steps=3'"),
    # Flags that contradict each other or mean nothing together.
    ("--steps=10 --epochs=2", "either --steps or --epochs"),
    ("--clip_norm=1", "expected --clip=value, norm, global_norm or adaptive beside it"),
    ("--clip=none --clip_norm=1", "found --clip=none"),
    ("--momentum=0.9", "--momentum: expected --optimizer=momentum"),
    ("--schedule=piecewise --boundaries=1 --values=1,2 --learning_rate=1", "--learning_rate"),
    ("--boundaries=1,2", "--boundaries: expected --schedule=piecewise"),
    ("--values=1,2", "--values: expected --schedule=piecewise"),
    ("--schedule=piecewise", "expected --boundaries beside it"),
    ("--schedule=piecewise --boundaries=5", "expected --values beside it"),
    ("--schedule=piecewise --boundaries=5,9 --values=1,2", "expected 3 rates"),
    ("--schedule=piecewise --boundaries=9,5 --values=1,2,3", "expected rising steps"),
    ("--schedule=piecewise --boundaries=5,5 --values=1,2,3", "expected rising steps"),
    ("--schedule=piecewise --boundaries=5,x --values=1,2,3", "found x"),
    ("--schedule=piecewise --boundaries=5,9 --values=1,nan,3", "found nan"),
    ("--schedule=piecewise --boundaries=0,9 --values=1,2,3", "found 0"),
    ("--schedule=piecewise --boundaries=5,99 --values=1,2,3 --steps=50", "--boundaries"),
    ("--schedule=exponential", "expected --decay_steps beside it"),
    ("--schedule=cosine --staircase", "--staircase: expected --schedule=exponential"),
    ("--schedule=constant --decay_steps=5", "--decay_steps: expected --schedule="),
    ("--schedule=one_cycle --warmup_steps=5", "--warmup_steps"),
    ("--warmup_steps=50 --steps=50", "fewer than the 50 of --steps"),
    ("--batch_size=10 --accumulate=3", "a divisor of --batch_size=10"),
    ("--max_nonfinite=3", "--max_nonfinite: expected --on_nonfinite=skip"),
    ("--strategy=single --virtual_devices=2", "--virtual_devices"),
    ("--fresh", "expected --directory beside it"),
    ("--allow_change", "expected --directory beside it"),
    ("--fresh --allow_change --directory={tmp}/new", "either --fresh"),
    ("--download", "--download: expected --dataset=mnist"),
    ("--data_dir={tmp}", "--data_dir: expected --dataset=mnist"),
    ("--dataset=mnist --download", "expected --data_dir beside it"),
    # Paths.
    ("--dataset=mnist --data_dir={tmp}/none", "expected an existing folder, found nothing"),
    ("--dataset=mnist --data_dir={tmp}/file", "expected an existing folder, found a file"),
    ("--dataset=mnist --data_dir={tmp}/file/x --download", "found a file on the way"),
    ("--directory={tmp}/file", "found a file on the way"),
    ("--directory={tmp}/file/below", "found a file on the way"),
    ("--directory=", "expected a path of printable characters"),
    ("--directory=a\nb", "expected a path of printable characters"),
    ("--directory=a\x00b", "expected a path of printable characters"),
    ("--dump_weights={tmp}/w.txt", "ends in .npz"),
    ("--dump_weights={tmp}/none/w.npz", "no folder"),
    # Flagfiles.
    ("--flagfile={tmp}/none", "No such file"),
    ("--flagfile={tmp}", "expected a regular file"),
    ("--flagfile=/dev/zero", "expected a regular file"),
    ("--flagfile=", "expected the path of a file"),
    ("--flagfile", "expected the path of a file"),
    ("--flagfile={tmp}/cycle", "found a cycle"),
    ("--flagfile={tmp}/binary", "expected a readable text file"),
    ("--flagfile={tmp}/words", "found the argument 'hello'"),
    ("--flagfile={tmp}/bad", "--batch_size"),
    ("--flagfile={tmp}/huge", "at most 1 MiB"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the flags of the table point at."""
    tmp = tmp_path_factory.mktemp("bad")
    (tmp / "file").write_text("a file")
    (tmp / "cycle").write_text(f"--seed=1\n--flagfile={tmp}/cycle2\n")
    (tmp / "cycle2").write_text(f"--flagfile={tmp}/cycle\n")
    (tmp / "binary").write_bytes(b"--seed=\xff\xfe\n")
    (tmp / "words").write_text("hello\n")
    (tmp / "bad").write_text("--batch_size=0\n")
    (tmp / "huge").write_text("#\n" * 600_000)
    return tmp


def _check_line(error: InputError, named: str) -> None:
    line = str(error)
    assert named in line
    assert "\n" not in line
    assert line.isprintable()
    for word in (": expected ", ", found ", "; to mend: "):
        assert word in line
    assert len(line) < 1000


@pytest.mark.parametrize(("arguments", "named"), FLAG_CASES)
def test_bad_flags_are_refused_in_one_line(folder: Path, arguments: str, named: str) -> None:
    """Each bad command line raises the one line, before TensorFlow and before any file is made."""
    command = [part.replace("{tmp}", str(folder)) for part in arguments.split(" ")]
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError) as raised:
        flags.parse(["train", *command])
    _check_line(raised.value, named)
    assert sorted(folder.rglob("*")) == before


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
    _check_line(raised.value, named)
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
            _check_line(error, path.name)
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
        _check_line(raised.value, path.name)


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
    _check_line(raised.value, f"{path}: entry {member.name}")
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
    _check_line(raised.value, named)


def test_pickles_are_named_and_never_read(tmp_path: Path) -> None:
    """CIFAR's Python version is recognised, and refused because it holds pickles."""
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"would run code when unpickled")
    with pytest.raises(InputError) as raised:
        datasets.load("cifar10", str(tmp_path))
    _check_line(raised.value, "holds pickles and is never read")


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
        _check_line(raised.value, "digits.npz")


def _run(main: Callable[[list[str]], int | None], *arguments: str) -> int:
    with pytest.raises(SystemExit) as raised:
        entry.run_main(main, ["train", *arguments])
    assert isinstance(raised.value.code, int)
    return raised.value.code


def test_run_main_exits_with_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Bad input is one line on stderr and status 2; --debug adds the traceback."""

    def main(argv: list[str]) -> None:
        flags.parse(argv)

    assert _run(main, "--steps=0") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: --steps: expected")
    assert _run(main, "--steps=0", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err
    assert _run(main, "--debug", "--steps=0", "--nodebug") == 2
    assert "Traceback" not in capsys.readouterr().err
    assert _run(main, "--steps=1") == 0


def test_run_main_leaves_faults_of_the_program_alone() -> None:
    """An exception that is not about input keeps its traceback; a status is passed on."""

    def broken(_argv: list[str]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        entry.run_main(broken, ["train"])
    assert _run(lambda _argv: 143) == 143


def test_line_stays_one_line_whatever_is_found() -> None:
    """Line breaks, control characters and endless values cannot break the line."""
    error = InputError("a\nb", expected="c", found="\x1b[31m\r\n" + "x" * 10_000, mend="d\te")
    _check_line(error, "a\\nb")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--learning_rate=nan", "--learning_rate"),
        ("--modle=cnn", "did you mean --model?"),
        ("--flagfile={tmp}/none", "--flagfile"),
        ("--steps=5 --epochs=5", "either --steps or --epochs"),
        ("--dataset=mnist --data_dir={tmp}", "train-images-idx3-ubyte"),
        ("--dataset=cifar10 --data_dir={tmp}", "cifar-10-binary.tar.gz"),
        ("--dataset=mnist --data_dir={tmp}/cut", "expected 9424 bytes in all"),
    ],
)
def test_the_binary_exits_with_2(tmp_path: Path, arguments: str, named: str) -> None:
    """The real process: status 2, one line on stderr, nothing on stdout, well within 15 s."""
    data_files.write_mnist(tmp_path / "cut", zipped=False)
    (tmp_path / "cut" / _TRAIN_IMAGES).write_bytes(_IMAGES[:-1])
    command = [part.replace("{tmp}", str(tmp_path)) for part in arguments.split()]
    ended = subprocess.run(
        [sys.executable, "-m", "experiments.train", *command],
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert ended.returncode == entry.EXIT_BAD_INPUT
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("error: ")
    assert named in ended.stderr
