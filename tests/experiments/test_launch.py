"""Workers on one machine: started, passed through, ended; a run of two loses nothing."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import flags
from experiments.training import training_run

ROOT = pathlib.Path(__file__).parents[2]
_STEPS = 400
# What a worker of the tests below does when it is asked to end: says so, saves, and leaves.
_SAVES = """
import json, signal, sys, time
index = json.loads(__import__("os").environ["TF_CONFIG"])["task"]["index"]
def stop(number, frame):
    print("told", flush=True)
    time.sleep(1.0 if index == 0 else 0.0)
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGHUP, stop)
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""


def _launch(*command: str, workers: int = 2, grace: float = 10.0) -> subprocess.Popen[str]:
    """The launcher, with its command; its grace shortened for tests of it."""
    program = (
        "import sys; from experiments import launch; "
        f"launch._GRACE_SECONDS = {grace}; launch.run_main(launch.main)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, f"--workers={workers}", *command],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _finished(process: subprocess.Popen[str], seconds: float = 240) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # it ends its workers
        output, _ = process.communicate()
        raise AssertionError(f"still running after {seconds} s:\n{output[-3000:]}") from None
    return process.returncode, output


def _read_until(process: subprocess.Popen[str], text: str, times: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        times -= text in line
        if not times:
            return


def _workers_of(process: subprocess.Popen[str]) -> list[int]:
    path = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(number) for number in path.read_text().split()]


def test_each_worker_gets_its_place_and_its_output_its_number():
    """All get one cluster on loopback and their own index; every line tells whose it is."""
    code = "import os; print(os.environ['TF_CONFIG']); print('second')"
    status, output = _finished(_launch("--", sys.executable, "-c", code, workers=3))
    assert status == 0
    lines = sorted(output.splitlines())
    assert len(lines) == 6
    configs = [json.loads(line[4:]) for line in lines if "cluster" in line]
    assert [config["task"]["index"] for config in configs] == [0, 1, 2]
    assert len({json.dumps(config["cluster"]) for config in configs}) == 1
    assert all(a.startswith("127.0.0.1:") for a in configs[0]["cluster"]["worker"])
    assert [line for line in lines if "second" in line] == [f"[{i}] second" for i in range(3)]


def test_the_first_failure_ends_the_others_and_gives_the_status():
    """One fails while the others ignore SIGTERM: they are killed, and its status comes out."""
    code = (
        "import json, os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "index = json.loads(os.environ['TF_CONFIG'])['task']['index']; "
        "time.sleep(1 if index == 1 else 600); sys.exit(7)"
    )
    started = time.monotonic()
    process = _launch("--", sys.executable, "-c", code, workers=3, grace=1.0)
    time.sleep(0.8)
    workers = _workers_of(process)
    status, output = _finished(process)
    assert status == 7
    assert time.monotonic() - started < 30
    assert "worker 1 ended with status 7: ending the others" in output
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_a_signal_reaches_every_worker_once_and_the_slow_one_may_save():
    """The first to leave after SIGTERM is no failure: the others finish what they save."""
    process = _launch("--", sys.executable, "-c", _SAVES)
    _read_until(process, "ready", 2)
    process.send_signal(signal.SIGTERM)
    status, output = _finished(process)
    assert status == 143
    assert output.count("told") == 2
    assert output.count("saved") == 2
    assert "ending" not in output


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "a command behind --"),
        (["--"], "a command behind --"),
        (["python", "x.py"], "a command behind --"),
        (["--workers=0", "--", "true"], "--workers"),
        (["--wrokers=2", "--", "true"], "wrokers"),
        (["--", "/no/such/program"], "/no/such/program"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(arguments, named):
    """Exit status 2, one line, no worker left."""
    status, output = _finished(_launch(*arguments))
    assert status == 2
    assert output.count("\n") == 1
    assert named in output
    assert output.startswith("error: ")


def _training(directory: pathlib.Path, *options: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "experiments.train",
        "--model=mlp",
        "--precision=float64",
        "--batch_norm=synchronized",
        "--compile=graph",
        "--batch_size=33",
        f"--steps={_STEPS}",
        "--steps_per_call=8",
        "--checkpoint_every=40",
        f"--directory={directory}",
        *options,
    ]


def _train(directory: pathlib.Path, *options: str) -> subprocess.Popen[str]:
    return _launch("--", *_training(directory, "--strategy=multi_worker", *options))


def _reach(process: subprocess.Popen[str], directory: pathlib.Path, step: int) -> None:
    """Waits until the run has written the row of a step."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            lines = (directory / "metrics.jsonl").read_text().splitlines()
            # The last may be half written.
            if len(lines) > 1 and json.loads(lines[-2])["step"] >= step:
                return
        time.sleep(0.02)
    raise AssertionError(f"step {step} never came: {_finished(process)}")


def _result(directory: pathlib.Path) -> dict[str, object]:
    result: dict[str, object] = json.loads((directory / "result.json").read_text())
    return result


def _check_that_worker_1_is_named(output: str) -> None:
    """By worker 0 itself, once: the process that watches its connections says it otherwise."""
    said = [line for line in output.splitlines() if "error: worker" in line]
    assert len(said) == 1, output
    lost = r"\[0\] error: worker 0 of 2 lost worker 1 at 127\.0\.0\.1:\d+: .+; start all of them"
    assert re.match(lost, said[0]), said[0]


def test_two_workers_lose_nothing(tmp_path):
    """A run of two workers stopped, resumed, killed and resumed equals the uncut one to the bit."""
    uncut, cut = tmp_path / "uncut", tmp_path / "cut"
    status, output = _finished(_train(uncut))
    assert status == 0, output

    process = _train(cut)
    _reach(process, cut, 60)
    process.send_signal(signal.SIGTERM)
    status, output = _finished(process)
    assert status == 143, output
    stopped = _result(cut)
    assert stopped["interrupted"] == signal.SIGTERM
    assert 60 <= int(str(stopped["step"])) < _STEPS
    assert (cut / f"checkpoint-{stopped['step']:012d}").is_dir()

    process = _train(cut)
    _reach(process, cut, int(str(stopped["step"])) + 60)
    killed_at = time.monotonic()
    os.kill(_workers_of(process)[1], signal.SIGKILL)
    status, output = _finished(process)
    assert time.monotonic() - killed_at < 30
    assert status == 137, output
    _check_that_worker_1_is_named(output)
    assert "Traceback" not in output
    assert "retracing" not in output

    status, output = _finished(_train(cut))
    assert status == 0, output
    assert _result(cut)["step"] == _STEPS
    assert _result(cut)["state_sha256"] == _result(uncut)["state_sha256"]


def test_a_stopped_worker_is_named(tmp_path):
    """One that neither ends nor answers is named by the other, and ended by the launcher."""
    process = _train(tmp_path, "--steps=1000000")
    _reach(process, tmp_path, 20)
    stopped_at = time.monotonic()
    stopped = _workers_of(process)[1]
    os.kill(stopped, signal.SIGSTOP)
    status, output = _finished(process)
    # The other has 30 s, then the launcher leaves the stopped one 20.
    assert time.monotonic() - stopped_at < 50
    assert status == 1, output
    _check_that_worker_1_is_named(output)
    assert not pathlib.Path(f"/proc/{stopped}").exists()


def test_dumped_weights_have_the_same_names_on_any_replicas(tmp_path):
    """One replica, two virtual devices and two workers write the same arrays, to rounding."""
    names = ("single", "mirrored", "workers")
    options = {
        name: ["--steps=40", f"--dump_weights={tmp_path / name}.npz", "--augment=article"]
        for name in names
    }
    for process in (
        subprocess.Popen([*_training(tmp_path / "a", "--strategy=single", *options["single"])]),
        subprocess.Popen([*_training(tmp_path / "b", "--virtual_devices=2", *options["mirrored"])]),
    ):
        assert process.wait(240) == 0
    status, output = _finished(_train(tmp_path / "c", *options["workers"]))
    assert status == 0, output
    dumps = [dict(np.load(tmp_path / f"{name}.npz")) for name in names]
    assert "optimizer/update_count" in dumps[0]
    for dump in dumps[1:]:
        assert list(dump) == list(dumps[0])
        for name, value in dump.items():
            np.testing.assert_allclose(value, dumps[0][name], rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ('{"clutser": {}, "task": {}}', "did you mean 'cluster'"),
        (None, "cannot listen on 127.0.0.1"),
        ("absent", "after 2 s without worker 1 at 127.0.0.1:1;"),
    ],
)
def test_a_broken_cluster_never_trains_alone(tmp_path, config, named):
    """With the strategy left to itself: exit status 2 and one line, and no directory made."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        place = {"type": "worker", "index": 0}
        if config == "absent":
            taken.close()
        if config in (None, "absent"):
            config = json.dumps({"cluster": {"worker": [address, "127.0.0.1:1"]}, "task": place})
        done = subprocess.run(
            [*_training(tmp_path / "run"), "--meet_seconds=2"],
            cwd=ROOT,
            env={**os.environ, "TF_CONFIG": config, "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert named in said[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("asked", "age", "waited"),
    [(25.0, 0.0, 25.0), (25.0, 9.04, 16.0), (25.0, 99.0, 5.0), (2, 9, 2)],
)
def test_workers_wait_from_their_start_on(monkeypatch, asked, age, waited):
    """The start is off the time to wait, so that a worker killed early is told in time."""
    found = []
    monkeypatch.setattr(
        training_run.distribute, "make", lambda *_, **options: found.append(options)
    )
    training_run._replicas(flags.parse(["train", f"--meet_seconds={asked}"]), age)
    assert [options["meet_seconds"] for options in found] == [waited]


def test_what_the_chief_refuses_ends_all_workers_with_it() -> None:
    """Status 2, a line from each worker, and none of TensorFlow's about a lost connection."""
    train = (sys.executable, "-m", "experiments.train", "--strategy=multi_worker", "--model=mlp")
    process = _launch("--", *train, "--directory=/proc/x")
    status, output = _finished(process)
    assert status == 2, output
    chief, other = sorted(line for line in output.splitlines() if "error: " in line)
    assert chief.startswith("[0] error: run lock /proc/x/run.lock cannot be taken")
    assert other.startswith("[1] error: --strategy=multi_worker: expected every worker to start")
    assert "worker 0 cannot start the run" in other
    assert "lost" not in output
    assert "Socket closed" not in output


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_workers_end_with_their_launcher(number, tmp_path):
    """A launcher that is killed or loses its terminal takes its workers along; they save."""
    note = (
        "import os\ndef note(text, flush=None):\n"
        f"    open(os.path.join({str(tmp_path)!r}, text + str(os.getpid())), 'w').close()\n"
    )
    process = _launch("--", sys.executable, "-c", note + _SAVES.replace("print(", "note("))
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("ready*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = _workers_of(process)
    process.send_signal(number)
    process.wait(30)
    if number == signal.SIGHUP:  # It waits for them, and ends with their status.
        assert process.returncode == 143
    while any(pathlib.Path(f"/proc/{worker}/cmdline").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(list(tmp_path.glob("saved*"))) == 2


def test_a_closed_pipe_ends_a_workers_own_programs():
    """SIGPIPE is not ignored in a worker: `yes` would otherwise complain of the closed pipe."""
    status, output = _finished(_launch("--", "sh", "-c", "yes | head -n 1"))
    assert status == 0
    assert sorted(output.splitlines()) == ["[0] y", "[1] y"]
