"""Stop signals: the first is noted, the second ends the process at once, also in compiled code."""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from loop.run.signals import STOP_SIGNALS, StopSignals, exit_code
from tests import terminal

ROOT = Path(__file__).resolve().parents[3]

# The file itself, not the package: no TensorFlow needed. `wait` blocks in C, where no Python
# handler can run: a sort of 30 million numbers, repeated.
VICTIM = """
import importlib.util, sys, time
import numpy as np
spec = importlib.util.spec_from_file_location("signals", sys.argv[1])
signals = importlib.util.module_from_spec(spec)
spec.loader.exec_module(signals)
numbers = np.random.default_rng(0).random(30_000_000) if sys.argv[2] == "native" else None
with signals.StopSignals() as stop:
    print("ready", flush=True)
    if sys.argv[2] == "native":
        np.sort(numbers)
        print("sorted", flush=True)
    while stop.received is None:
        time.sleep(0.01)
    print("noted", stop.received, flush=True)
    if sys.argv[2] == "hang":
        time.sleep(60)
sys.exit(signals.exit_code(stop.received))
"""


def start(mode: str) -> "subprocess.Popen[str]":
    """A process that waits for signals and says what it noted."""
    command = [sys.executable, "-c", VICTIM, str(ROOT / "loop" / "run" / "signals.py"), mode]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_exit_codes_are_those_documented() -> None:
    """A run stopped by SIGTERM exits with 143, by SIGINT with 130."""
    assert exit_code(signal.SIGTERM) == 143
    assert exit_code(signal.SIGINT) == 130


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_first_signal_is_noted_and_handlers_come_back(number: signal.Signals) -> None:
    """The flag stands at once after the signal; leaving restores what was there."""
    before = {n: signal.getsignal(n) for n in STOP_SIGNALS}
    threads = threading.active_count()
    descriptors = len(os.listdir("/proc/self/fd"))
    with StopSignals() as stop:
        assert stop.received is None
        assert stop.installed
        os.kill(os.getpid(), number)
        assert stop.received == number
    assert not stop.installed
    assert stop.received == number
    assert {n: signal.getsignal(n) for n in STOP_SIGNALS} == before
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors
    with stop:  # entered again, it starts anew
        assert stop.received is None


def test_graceful_end_has_the_documented_code() -> None:
    """A process that ends on the flag exits with 143."""
    with start("wait") as process:
        process.terminate()
        output, _ = process.communicate(timeout=30)
    assert output == "noted 15\n"
    assert process.returncode == 143


@pytest.mark.parametrize(
    ("second", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"]
)
def test_second_signal_exits_at_once(second: signal.Signals, code: int) -> None:
    """A second signal of either kind ends a hanging process with 128 + its number, in one line."""
    with start("hang") as process:
        process.terminate()
        assert process.stdout is not None
        assert process.stdout.readline() == "noted 15\n"
        process.send_signal(second)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert errors == f"second stop signal ({second.name}): exiting at once\n"


def test_second_signal_does_not_wait_for_native_code() -> None:
    """Two signals during a long call into C end the process before the call does."""
    with start("native") as process:
        process.terminate()
        time.sleep(0.05)  # two equal pending signals would be one
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert output == ""  # "sorted" was never reached
    assert process.returncode == 143


def test_outside_the_main_thread_it_warns_and_notes_nothing() -> None:
    """In another thread the signals stay as they are, and a warning says so."""
    before = {n: signal.getsignal(n) for n in STOP_SIGNALS}
    seen: list[StopSignals] = []

    def enter() -> None:
        stop = StopSignals()
        with pytest.warns(RuntimeWarning, match="not in the main thread"):
            stop.__enter__()
        seen.append(stop)
        stop.__exit__(None, None, None)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen
    assert {n: signal.getsignal(n) for n in STOP_SIGNALS} == before
    assert not seen[0].installed
    assert seen[0].received is None


def test_entering_twice_is_refused() -> None:
    """One object cannot be entered inside itself; two nested ones can."""
    with StopSignals() as outer:
        with pytest.raises(RuntimeError, match="already entered"), outer:
            pass
        with StopSignals() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
        assert inner.received == signal.SIGTERM
        assert outer.received is None


def test_a_second_signal_gives_the_terminal_back():
    """With a progress bar shown, its line has an open end and the cursor is hidden."""
    script = (
        "import os, signal, time\n"
        "from loop.actions.progress import Progress\n"
        "from loop.run.signals import StopSignals\n"
        "with StopSignals() as stop, Progress(40):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    while stop.received is None: time.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)\n"
    )
    status, written = terminal.run([sys.executable, "-c", script], columns=80)
    assert status == 143
    bar, line = [text for text in terminal.screen(written, 80) if text][-2:]
    assert bar.startswith("step 0/40")
    assert line == "second stop signal (SIGTERM): exiting at once"
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_a_forked_child_does_not_count_as_a_second_signal():
    """Ctrl-C goes to the whole group: the child's C handler must not write into our pipe."""
    script = (
        "import os, signal, time\n"
        "from loop.run.signals import StopSignals\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "os.setpgrp()\n"
        "with StopSignals() as stop:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        try: os.write(1, b'here\\n'); time.sleep(60)\n"
        "        except KeyboardInterrupt: os._exit(7)\n"
        "    time.sleep(0.5)\n"
        "    os.killpg(0, signal.SIGINT)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n"
        "    time.sleep(0.2)\n"
        "    print(stop.received)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "here\n7\n2\n"), done.stderr


def test_another_signal_reaches_the_wakeup_descriptor_from_before():
    """An event loop that waits for SIGCHLD or SIGUSR1 gets it while stop signals are noted."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    handler = signal.signal(signal.SIGUSR1, lambda *_: None)
    before = signal.set_wakeup_fd(writer)
    try:
        with StopSignals():
            os.kill(os.getpid(), signal.SIGUSR1)
            assert select.select([reader], [], [], 30)[0]
            assert os.read(reader, 1) == bytes([signal.SIGUSR1])
        assert signal.set_wakeup_fd(writer) == writer
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGUSR1, handler)
        os.close(reader)
        os.close(writer)
