"""Faults of whole runs, caused for real: killed, stopped, starved, refused, changed."""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from experiments import train
from experiments.entry import tensorflow_import
from experiments.entry.errors import InputError
from loop import checkpoint
from loop.run.lock import RunLock
from tests.experiments.data import data_files

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ("--model=mlp", "--batch_size=32", "--steps=8", "--log_every=4", "--compile=graph")
# Of Linux's capabilities(7).
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE = 1 << 1
BANNER = ("I0000", "W0000", "E0000", "WARNING: All log messages")


def _train(directory, *flags):
    return train.main(["train", *FLAGS, f"--directory={directory}", *flags])


def _process(*command, level=None):
    """A Python process of its own, with TensorFlow's messages as a user would have them."""
    environment = {k: v for k, v in os.environ.items() if k != tensorflow_import.LEVEL}
    if level is not None:
        environment[tensorflow_import.LEVEL] = level
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def _error(capsys):
    """The one line on stderr."""
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert said.startswith("error: ")
    return said


def test_random_faults_lose_nothing():
    """A few kills, stops and full disks of real runs, on one replica and on two."""
    command = ("-m", "tests.torture.runs", "--kills=3", "--stops=2", "--limits=2")
    ended = _process(*command, "--worker_kills=0", "--modes=graph,two replicas")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [line.rsplit(maxsplit=3) for line in ended.stdout.splitlines()[1:]]
    assert len(rows) == 6
    assert sum(int(tried) for _, tried, _, _ in rows) >= 7
    assert all(tried == survived and lost == "0" for _, tried, survived, lost in rows)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A finished run of eight steps."""
    directory = tmp_path_factory.mktemp("saved") / "run"
    assert _train(directory) == 0
    return directory


@pytest.fixture
def run_of_eight(saved, tmp_path):
    """A copy of it."""
    directory = tmp_path / "run"
    subprocess.run(["cp", "-r", str(saved), str(directory)], check=True)
    return directory


def test_changed_settings_stop_or_are_shown(run_of_eight, capsys, caplog):
    """Another learning rate stops with both values; --allow_change shows them and goes on."""
    changed = ("--learning_rate=0.004", "--dropout=0.5", "--steps=10")
    before = sorted(path.name for path in run_of_eight.iterdir())
    assert _train(run_of_eight, *changed) == 2
    line = _error(capsys)
    assert "learning_rate" in line
    assert "0.004" in line
    assert "0.002" in line
    assert "dropout" in line
    assert "--allow_change" in line
    assert sorted(path.name for path in run_of_eight.iterdir()) == before
    assert _train(run_of_eight, *changed, "--allow_change") == 0
    shown = [message for message in caplog.messages if "changed setting" in message]
    assert len(shown) == 2
    assert "0.002" in shown[1]
    assert "0.004" in shown[1]
    assert json.loads((run_of_eight / "result.json").read_text())["step"] == 10


def test_other_data_under_the_same_settings_stop_or_are_shown(tmp_path, capsys, caplog):
    """Another folder's images, as many and as large, stop with both fingerprints, or are shown."""
    for seed, name in enumerate(("one", "other")):
        data_files.write_mnist(tmp_path / name, seed=seed)

    def train(folder, steps, *flags):
        data = ("--dataset=mnist", f"--data_dir={tmp_path / folder}", "--batch_size=4")
        return _train(tmp_path / "run", *data, f"--steps={steps}", *flags)

    assert train("one", 2) == 0
    capsys.readouterr()
    assert train("other", 3) == 2
    line = _error(capsys)
    assert "fingerprint.image: saved '" in line
    assert "--allow_change" in line
    assert train("other", 3, "--allow_change") == 0
    assert any("fingerprint.image: saved '" in message for message in caplog.messages)


def test_harmless_settings_pass(run_of_eight, caplog):
    """How often to log, evaluate and save, steps a call and the length change no step."""
    harmless = ("--log_every=1", "--eval_every=5", "--checkpoint_every=3", "--steps_per_call=2")
    assert _train(run_of_eight, *harmless, "--steps=12", "--on_nonfinite=skip") == 0
    assert not [m for m in caplog.messages if "changed" in m or "bit-exact" in m]
    assert json.loads((run_of_eight / "result.json").read_text())["step"] == 12


def test_another_compile_mode_is_said_not_to_be_bit_exact(run_of_eight, caplog):
    """The run goes on, and the log says what differs."""
    assert _train(run_of_eight, "--compile=eager", "--steps=9") == 0
    (line,) = [message for message in caplog.messages if "not bit-exact" in message]
    assert "compile" in line
    assert "graph" in line
    assert "eager" in line


def test_another_machine_is_said_not_to_be_bit_exact(run_of_eight, caplog, monkeypatch):
    """TensorFlow's version, the processor and the threads differ from those of the saved run."""
    other = {"tensorflow": "2.99.0", "intra_op_threads": 64, "cpu": "another"}
    here = checkpoint.environment()
    monkeypatch.setattr(checkpoint, "environment", lambda: {**here, **other})
    assert _train(run_of_eight, "--steps=9") == 0
    (line,) = [message for message in caplog.messages if "not bit-exact" in message]
    for named in ("2.99.0", here["tensorflow"], "intra_op_threads", "64", "cpu", "another"):
        assert str(named) in line


def test_other_replicas_go_on_and_say_so(run_of_eight):
    """From one replica to two: the same run, not bit-exact; stderr has no line of TensorFlow's."""
    two = ("--strategy=mirrored", "--virtual_devices=2", "--steps=9")
    ended = _process("-m", "experiments.train", *FLAGS, f"--directory={run_of_eight}", *two)
    assert ended.returncode == 0, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if "not bit-exact" in line]
    assert "replicas" in line
    assert not [line for line in ended.stderr.splitlines() if line.startswith(BANNER)]


def test_a_locked_directory_names_its_holder(run_of_eight):
    """The second run ends with status 2 and one line, nothing of TensorFlow's beside it."""
    with RunLock(run_of_eight):
        ended = _process("-m", "experiments.train", *FLAGS, f"--directory={run_of_eight}")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert f"in use by another run, process {os.getpid()}" in ended.stderr


def test_a_directory_of_something_else_is_refused(tmp_path, capsys):
    """What is there is named and left alone."""
    (tmp_path / "thesis.txt").write_text("years of work")
    assert _train(tmp_path) == 2
    assert "found thesis.txt" in _error(capsys)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert not list(tmp_path.glob("checkpoint-*"))


def test_no_sound_checkpoint_stops(run_of_eight, capsys):
    """The only checkpoint damaged: its file is named, the status 2, and nothing is trained."""
    (found,) = checkpoint.scan(run_of_eight)
    (found.path / "state.index").write_bytes(b"")
    assert _train(run_of_eight) == 2
    line = _error(capsys)
    assert "state.index" in line
    assert "--fresh" in line


@pytest.fixture
def read_only():
    """A folder, the working one, that this process cannot write to, also if it is root's.

    Root gives up its right to pass over permissions. Another user in its place could not read a
    checkout in root's home.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    held = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    assert libc.capget(header, held) == 0
    fewer = (ctypes.c_uint32 * 6)(*held)
    fewer[0] &= ~_CAP_DAC_OVERRIDE
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        where = os.getcwd()
        os.chdir(folder)
        assert libc.capset(header, fewer) == 0
        try:
            yield Path(folder)
        finally:
            assert libc.capset(header, held) == 0
            os.chdir(where)
            Path(folder).chmod(0o755)


def test_a_read_only_directory_stops_before_step_0(read_only, capsys):
    """Given or not, a directory that cannot be written is one line and status 2."""
    assert _train(read_only / "run") == 2
    assert "Permission denied" in _error(capsys)
    with pytest.raises(InputError, match="runs/ to be writable"):
        train.main(["train", *FLAGS])
    assert list(read_only.iterdir()) == []


def test_a_batch_larger_than_the_data_is_refused_before_tensorflow():
    """Status 2 and one line, without the seconds that the import takes."""
    script = (
        "import sys; from experiments import train\n"
        "from experiments.entry.errors import InputError\n"
        "try: train.main(['train', '--batch_size=99999'])\n"
        "except InputError as error: print(error)\n"
        "print('tensorflow' in sys.modules)"
    )
    ended = _process("-c", script)
    line, imported = ended.stdout.splitlines()
    assert "--batch_size: expected at most the 1438 training examples of digits" in line
    assert imported == "False"


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ("pass", 0, ""),
        ("raise ImportError('broken')", 1, "native line"),
        ("os.abort()", -6, "Fatal Python error: Aborted"),
    ],
)
def test_the_banner_is_held_back_unless_the_import_fails(body, status, named):
    """What native code writes to stderr is dropped, passed on at an error, a crash is said."""
    script = (
        "import os; from experiments.entry import tensorflow_import\n"
        "with tensorflow_import.without_banner():\n"
        f"    os.write(2, b'native line\\n'); {body}\n"
        "os.write(2, b'after\\n')"
    )
    ended = _process("-c", script)
    assert ended.returncode == status
    assert named in ended.stderr
    assert ("native line" in ended.stderr) == (status == 1)
    assert ("after" in ended.stderr) == (status == 0)


@pytest.mark.parametrize("level", [None, "0", "1", "3"])
def test_only_level_0_asks_for_the_banner(level):
    """A level that asks for fewer messages holds the banner back too, and stays what it was."""
    script = (
        "import os; from experiments.entry import tensorflow_import\n"
        "with tensorflow_import.without_banner(): os.write(2, b'native line\\n')\n"
        "print(os.environ[tensorflow_import.LEVEL])"
    )
    ended = _process("-c", script, level=level)
    assert ended.returncode == 0
    assert ended.stderr == ("native line\n" if level == "0" else "")
    assert ended.stdout == f"{level or 2}\n"


def test_a_closed_stderr_holds_nothing_back():
    """`2>&-` leaves no descriptor to give back."""
    script = (
        "from experiments.entry import tensorflow_import\n"
        "with tensorflow_import.without_banner(): print('imported')"
    )
    closing = f"import os, sys; os.close(2); os.execv(sys.executable, ['python', '-c', {script!r}])"
    ended = _process("-c", closing)
    assert (ended.returncode, ended.stdout) == (0, "imported\n")


@pytest.mark.parametrize("level", [None, "2"])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--directory=/proc/x", "run lock /proc/x/run.lock cannot be taken"),
        ("--directory=/proc/x --compile=xla", "run lock /proc/x/run.lock"),
        ("--directory=/proc/x --strategy=mirrored --virtual_devices=2", "run lock /proc/x"),
        ("--strategy=multi_worker", "TF_CONFIG expected to name the workers, found unset"),
        ("--steps=3 --profile=5:9", "--profile: expected steps of the run"),
    ],
)
def test_what_is_refused_after_the_import_is_one_line_too(arguments, named, level, tmp_path):
    """Nothing of TensorFlow's stands beside it, whatever device or compiler comes up."""
    directory = () if "--directory" in arguments else (f"--directory={tmp_path}/run",)
    ended = _process(
        "-m", "experiments.train", "--model=mlp", *arguments.split(), *directory, level=level
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert named in line


@pytest.mark.parametrize("name", ["feeds", "memory", "finite_check", "overhead", "kernels"])
def test_benchmarks_import_tensorflow_in_silence(name, tmp_path):
    """Those that measure in their own process hold the banner back as the other binaries do."""
    script = (
        "import sys; from experiments.benchmark import __main__ as binary\n"
        f"argv = ['benchmark', {name!r}, '--workloads=none', '--json={tmp_path}/none']\n"
        "try: binary.main(argv)\n"
        "except binary.InputError: print('tensorflow' in sys.modules)\n"
    )
    ended = _process("-c", script)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")
