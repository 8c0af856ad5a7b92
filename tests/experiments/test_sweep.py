"""A grid of runs in processes, and its table."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import flags, sweep, train
from experiments.entry.errors import InputError
from experiments.flags.sweep import grid_of

_ROOT = Path(__file__).resolve().parents[2]
_SMALL = ["--model=mlp", "--batch_size=64", "--compile=graph", "--optimizer=sgd"]


def test_the_grid_is_read():
    """Names with their values, in order, blanks around them left out."""
    assert grid_of("learning_rate=.1,.03;seed=1,2") == {
        "learning_rate": [".1", ".03"],
        "seed": ["1", "2"],
    }
    assert grid_of(" optimizer = adam , sgd ") == {"optimizer": ["adam", "sgd"]}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("learning_rate", "--sweep: expected flag=value,value;flag=value, found learning_rate"),
        ("seed=1,,2", "--sweep: expected flag=value,value;flag=value, found seed=1,,2"),
        ("seed=1;", "--sweep: expected flag=value,value;flag=value, found nothing"),
        ("sed=1", "--sweep: expected the names of flags, found sed"),
        ("directory=a,b", "--sweep: expected flags of one number or choice each, found directory"),
        ("values=1,2", "--sweep: expected flags of one number or choice each, found values"),
        ("seed=1,1", "--sweep: expected each flag and each of its values once, found seed=1,1"),
        ("seed=1;seed=2", "--sweep: expected each flag and each of its values once, found seed=2"),
        ("seed=1,-2", "--seed: expected a whole number from 0"),
        ("optimizer=adam,momentun", "--optimizer: expected sgd, momentum"),
        ("schedule=constant,exponential", "--schedule=exponential: expected --decay_steps"),
    ],
)
def test_a_bad_grid_starts_nothing(text, named, tmp_path):
    """Every point is checked as a command line before the first run."""
    with pytest.raises(InputError) as raised:
        train.main(["train", f"--sweep={text}", f"--directory={tmp_path}/sweep"])
    assert str(raised.value).startswith(named)
    assert not (tmp_path / "sweep").exists()


def test_what_each_run_would_overwrite_is_refused():
    """One export of many runs has no meaning."""
    with pytest.raises(InputError, match="--predict: expected no --sweep beside it"):
        flags.parse(["train", "--sweep=seed=1,2", "--predict=out.npz"])


def test_a_sweep_trains_every_point_and_says_which_failed(tmp_path, capsys):
    """A run with a result of its own after one that cannot start, which the table tells."""
    arguments = ["train", *_SMALL, "--steps=12", f"--directory={tmp_path}"]
    bad = tmp_path / "learning_rate=.1,seed=2"
    bad.mkdir()
    (bad / "foreign.txt").write_text("not a run")
    status = train.main([*arguments, "--sweep=learning_rate=.1,.3;seed=2"])
    printed = capsys.readouterr().out
    assert status == 1
    records = json.loads((tmp_path / sweep.TABLE_FILE).read_text())
    assert [(r["learning_rate"], r["seed"], r["status"]) for r in records] == [
        (".1", "2", 2),
        (".3", "2", 0),
    ]
    own = tmp_path / "learning_rate=.3,seed=2"
    result = json.loads((own / "result.json").read_text())
    assert records[1]["test_accuracy"] == result["test_accuracy"] > 0.5
    assert records[0]["test_accuracy"] is None
    stored = (own / "flags.txt").read_text().splitlines()
    assert {"--seed=2", "--learning_rate=0.3"} <= set(stored)
    assert not any("--sweep" in line for line in stored)
    assert "failed with 2: error: directory" in printed
    assert "sweep, best loss marked *" in printed
    names = ("learning rate", "seed", "train loss", "test accuracy", "examples per second")
    assert all(name in printed for name in names)
    (marked,) = [line.split() for line in printed.splitlines() if line.split()[:1] == ["*"]]
    assert marked[1:3] == [".3", "2"]


def test_the_table_fits_a_terminal(capsys, monkeypatch):
    """At 80 columns no header and no number of a sweep of two flags is cut or broken in a word."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    numbers = {
        "train_loss": 2.4e-5,
        "test_loss": 0.096852,
        "test_accuracy": 0.96936,
        "examples_per_second": 262113.4,
        "status": 0,
    }
    records = [
        {"learning_rate": ".01", "seed": "1", "step": 2000, **numbers},
        {"learning_rate": ".03", "seed": "1", "step": 2000, **numbers, "test_loss": 0.05},
        {"learning_rate": ".1", "seed": "1", "step": None, **dict.fromkeys(numbers), "status": 1},
    ]
    sweep._show(records, "loss")
    written = capsys.readouterr().out
    text = re.sub(r"\x1b\[[\d;]*m", "", written)
    assert max(map(len, text.splitlines())) <= 80
    for word in ("learning", "accuracy", "examples", "2.4e-05", "0.096852", "262113"):
        assert word in text
    assert [line.split()[:2] for line in text.splitlines() if "*" in line][1:] == [["*", ".03"]]


def test_no_run_is_marked_where_none_ended_well(capsys):
    """The title says so instead of naming a best one."""
    numbers = ("step", "train_loss", "test_loss", "test_accuracy", "examples_per_second")
    sweep._show([{"seed": "1", **dict.fromkeys(numbers), "status": 2}], "loss")
    printed = capsys.readouterr().out
    assert printed.startswith("sweep, no run ended well\n")
    assert "*" not in printed


# Runs a command with its standard input as the terminal that controls it.
_ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def _endless(directory):
    command = [sys.executable, "-m", "experiments.train", *_SMALL, "--steps=100000000"]
    return [*command, "--sweep=seed=1,2", f"--directory={directory}"]


def _wait_for_steps(directory):
    metrics = directory / "seed=1" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)


def test_a_signal_ends_the_run_at_work_and_the_sweep(tmp_path):
    """SIGTERM reaches the run, which saves a checkpoint; the second is not started."""
    process = subprocess.Popen(_endless(tmp_path), cwd=_ROOT, stdout=subprocess.PIPE)
    _wait_for_steps(tmp_path)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert list((tmp_path / "seed=1").glob("checkpoint-*"))
    assert not (tmp_path / "seed=2").exists()


def test_one_interrupt_from_the_terminal_is_one_to_the_run(tmp_path):
    """Ctrl-C, which the terminal sends to all in the foreground: the run still saves."""
    master, terminal = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", _ON_TERMINAL, *_endless(tmp_path)],
        cwd=_ROOT,
        stdin=terminal,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        _wait_for_steps(tmp_path)
        os.write(master, b"\x03")
        output, _ = process.communicate(timeout=60)
    os.close(master)
    os.close(terminal)
    log = (tmp_path / "seed=1.log").read_text()
    assert process.returncode == 130, output
    assert "second stop signal" not in log
    assert list((tmp_path / "seed=1").glob("checkpoint-*")), log
    assert not (tmp_path / "seed=2").exists()


def test_a_second_signal_ends_the_run_at_once(tmp_path):
    """It is handed on like the first, also while the run saves."""
    saves_for_ever = tmp_path / "sitecustomize.py"
    saves_for_ever.write_text(
        "import os, signal, sys, time\n"
        "def told(number, frame):\n"
        "    print('told', flush=True)\n"
        "    signal.signal(number, signal.SIG_DFL)\n"
        "    time.sleep(600)\n"
        "if os.environ.get('SWEPT'):\n"
        "    signal.signal(signal.SIGTERM, told)\n"
        "    print('started', flush=True)\n"
        "    time.sleep(600)\n"
    )
    program = (
        "import os, sys; from experiments import flags, sweep; argv = sys.argv; "
        "settings = flags.parse(argv); os.environ['SWEPT'] = '1'; "
        "sys.exit(sweep.run(argv, settings))"
    )
    log = tmp_path / "sweep" / "seed=1.log"
    with subprocess.Popen(
        [sys.executable, "-c", program, "--sweep=seed=1,2", f"--directory={tmp_path}/sweep"],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
    ) as process:
        for said in ("started\n", "started\ntold\n"):
            deadline = time.monotonic() + 60
            while not (log.exists() and log.read_text() == said) and time.monotonic() < deadline:
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
        try:
            output, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 143, output
    assert "failed with -15" in output.decode()
    assert not (tmp_path / "sweep" / "seed=2.log").exists()
