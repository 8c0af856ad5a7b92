"""Every kind of bad input: one line that says what, where, expected, found and how to mend."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import flags
from experiments.entry import run_main
from experiments.entry.errors import InputError
from tests.experiments import lines
from tests.experiments.data import data_files

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
    ("--meet_seconds=0", "--meet_seconds: expected a number above 0"),
    ("--stall_seconds=0", "--stall_seconds: expected a number above 0"),
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
    ("--flagfile={tmp}/twice0", "found the same file again"),
    ("--flagfile={tmp}/chain0", "no more than 64 of them, found more"),
    ("--steps=0x10", "--steps: expected a whole number from 1"),
    ("--steps=1_000", "--steps: expected a whole number from 1"),
    ("--steps=\u0661\u0660", "--steps: expected a whole number from 1"),
    ("--steps=1e3", "--steps: expected a whole number from 1"),
    ("--learning_rate=0x10", "--learning_rate: expected a number"),
    ("--learning_rate=1_0", "--learning_rate: expected a number"),
    ("--boundaries=1_0,20 --schedule=piecewise", "--boundaries: expected whole numbers"),
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
    for index in range(30):  # Each twice: 2**30 lines, were each file read again.
        (tmp / f"twice{index}").write_text(f"--flagfile={tmp}/twice{index + 1}\n" * 2)
    (tmp / "twice30").write_text("--seed=3\n")
    for index in range(1200):
        (tmp / f"chain{index}").write_text(f"--flagfile={tmp}/chain{index + 1}\n")
    (tmp / "cycle").write_text(f"--seed=1\n--flagfile={tmp}/cycle2\n")
    (tmp / "cycle2").write_text(f"--flagfile={tmp}/cycle\n")
    (tmp / "binary").write_bytes(b"--seed=\xff\xfe\n")
    (tmp / "words").write_text("hello\n")
    (tmp / "bad").write_text("--batch_size=0\n")
    (tmp / "huge").write_text("#\n" * 600_000)
    return tmp


@pytest.mark.parametrize(("arguments", "named"), FLAG_CASES)
def test_bad_flags_are_refused_in_one_line(folder: Path, arguments: str, named: str) -> None:
    """Each bad command line raises the one line, before TensorFlow and before any file is made."""
    command = [part.replace("{tmp}", str(folder)) for part in arguments.split(" ")]
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError) as raised:
        flags.parse(["train", *command])
    lines.check(raised.value, named)
    assert sorted(folder.rglob("*")) == before


def _run(main: Callable[[list[str]], int | None], *arguments: str) -> int:
    with pytest.raises(SystemExit) as raised:
        run_main.run_main(main, ["train", *arguments])
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
        run_main.run_main(broken, ["train"])
    assert _run(lambda _argv: 143) == 143


def test_an_interrupt_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Control-C before training has begun: status 130, and a traceback with --debug alone."""

    def interrupted(_argv: list[str]) -> None:
        raise KeyboardInterrupt

    assert _run(interrupted) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert _run(interrupted, "--debug") == 130
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("experiments.benchmark steps --json={tmp}", "--json: expected a file"),
        ("experiments.benchmark.tables", "tables: expected result files, found none"),
        ("experiments.benchmark.tables {tmp}/none", "none: expected a file written by"),
        (
            "experiments.benchmark.install_contenders tourch",
            "expected jax, orbit, torch, found tourch",
        ),
    ],
)
def test_the_benchmark_refuses_on_stderr(tmp_path: Path, command: str, named: str) -> None:
    """Status 2 and one line there; nothing on stdout, which belongs to the tables."""
    module, *arguments = command.replace("{tmp}", str(tmp_path)).split()
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert named in line


def test_line_stays_one_line_whatever_is_found() -> None:
    """Line breaks, control characters and endless values cannot break the line."""
    error = InputError("a\nb", expected="c", found="\x1b[31m\r\n" + "x" * 10_000, mend="d\te")
    lines.check(error, "a\\nb")


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
    (tmp_path / "cut" / "train-images-idx3-ubyte").write_bytes(
        data_files.idx_bytes(data_files.random_idx(12, 12)[0])[:-1]
    )
    command = [part.replace("{tmp}", str(tmp_path)) for part in arguments.split()]
    ended = subprocess.run(
        [sys.executable, "-m", "experiments.train", *command],
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert ended.returncode == run_main.EXIT_BAD_INPUT
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("error: ")
    assert named in ended.stderr
