"""Ctrl-C and SIGTERM while a trainer works: nothing that was computed is lost."""

import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf

import loop
from loop.run import signals
from tests.loop import steps

_UNTIL = 40

# /work/shared/cases/09: a signal from outside while a compiled call runs, then training goes on.
_SCRIPT = """
import json, os, signal, subprocess, sys
import numpy as np, tensorflow as tf
import kernels, loop

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
number, directory, until = int(sys.argv[1]), sys.argv[2], 6000
rng = np.random.default_rng(0)
data = {"x": rng.normal(size=(4096, 64)).astype("f"), "y": rng.integers(0, 10, 4096)}
a = loop.layers.Dense(64, 256, name="a", seed=0)
b = loop.layers.Dense(256, 10, name="b", seed=1)
optimizer = loop.optimizers.Momentum(0.05)
step = loop.GradientStep(
    lambda q: kernels.softmax_cross_entropy(q["y"], b(tf.nn.relu(a(q["x"])))),
    a.trainable_variables + b.trainable_variables, optimizer)
sent = []

def send(rows):
    if not sent and rows.first_step > 300:
        kill = f"import os, time; time.sleep(0.1); os.kill({os.getpid()}, {number})"
        sent.append(subprocess.Popen([sys.executable, "-S", "-c", kill]))

def saved():
    if not os.path.isdir(directory): return []
    return sorted(int(name[-12:]) for name in os.listdir(directory) if name[:10] == "checkpoint")

try:
    with loop.Trainer(
        step=step, feed=loop.feeds.Arrays(data, batch_size=256), state={"a": a, "b": b},
        compile="graph", directory=directory, writers=[send],
    ) as trainer:
        try:
            trainer.train(until=until)
        except KeyboardInterrupt:
            print(json.dumps([int(trainer.global_step), saved()]), flush=True)
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            trainer.train(until=until)
finally:
    print(json.dumps([int(trainer.global_step), saved()]), flush=True)
"""


@pytest.fixture(autouse=True)
def _handlers():
    """Python's own handlers, whatever the shell that started the tests has set."""
    before = {number: signal.getsignal(number) for number in signals.STOP_SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _trainer(**options):
    net = steps.Net(dtype=tf.float32)
    optimizer = loop.optimizers.Momentum(0.05)
    averages = options.pop("averages", ())
    step = loop.GradientStep(
        steps.squared_errors(net), net.trainable_variables, optimizer, after_update=averages
    )
    feed = loop.feeds.Arrays(steps.arrays(dtype=np.float32), batch_size=8, seed=5)
    if "evaluate_every" in options:
        options["evaluation"] = loop.Evaluation(
            lambda batch: {"loss": (net(batch["x"], training=False) - batch["y"]) ** 2}, feed
        )
    return loop.Trainer(step=step, feed=feed, state=net, compile="graph", **options)


def _press(number=signal.SIGINT):
    os.kill(os.getpid(), number)


def _steps_of(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_a_signal_from_outside_loses_no_line(number, tmp_path):
    """The call under way is finished, written and saved; then the process ends as Python would."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(int(number)), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    step, saved = printed[0]
    assert 300 < step < 6000, done.stderr
    assert saved[-1] == step
    until = step if number == signal.SIGTERM else 6000
    assert done.returncode == (143 if number == signal.SIGTERM else 0), done.stderr
    assert printed[-1][0] == until
    assert _steps_of(tmp_path / "run" / "metrics.jsonl") == list(range(1, until + 1))
    assert "the run stops after the call under way" in done.stderr
    assert "Traceback" not in done.stderr


def test_training_goes_on_after_an_interrupt_as_if_there_was_none(tmp_path):
    """The same trainer, and a resumed one, end with the bits of the run without an interrupt."""
    uncut = _trainer()
    uncut.train(until=_UNTIL)

    pressed = []

    def press(_rows):
        if _rows.first_step >= 3 and not pressed:
            pressed.append(_press())

    with _trainer(directory=tmp_path, writers=[press], steps_per_call=6) as trainer:
        with pytest.raises(KeyboardInterrupt):
            trainer.train(until=_UNTIL)
        assert trainer.stop_signal == signal.SIGINT
        at = int(trainer.global_step)
        assert (tmp_path / f"checkpoint-{at:012d}" / "manifest.json").exists()
    with _trainer(directory=tmp_path) as resumed:
        resumed.train(until=_UNTIL)
        assert resumed.stop_signal is None
        assert steps.same(steps.values(uncut.state), steps.values(resumed.state))
    assert _steps_of(tmp_path / "metrics.jsonl") == list(range(1, _UNTIL + 1))


def test_a_trainer_that_was_interrupted_forgets_it_when_it_goes_on():
    """`stop_signal` and `stop_reason` tell of the last `train`."""
    pressed = []

    def press(_rows):
        if not pressed:
            pressed.append(_press())

    trainer = _trainer(writers=[press])
    with pytest.raises(KeyboardInterrupt):
        trainer.train(until=_UNTIL)
    assert trainer.stop_reason == "signal 2"
    trainer.train(until=_UNTIL)
    assert (trainer.stop_signal, trainer.stop_reason) == (None, None)
    assert int(trainer.global_step) == _UNTIL


def test_an_evaluation_under_way_is_finished_and_recorded(tmp_path, monkeypatch):
    """Ctrl-C during a boundary's evaluation: its line is written, as a resume writes it no more."""
    from loop.evaluation import evaluation

    whole = evaluation.CompiledEvaluation.__call__

    def pressed(self):
        _press()
        return whole(self)

    monkeypatch.setattr(evaluation.CompiledEvaluation, "__call__", pressed)
    with (
        _trainer(directory=tmp_path, evaluate_every=7) as trainer,
        pytest.raises(KeyboardInterrupt),
    ):
        trainer.train(until=_UNTIL)
    assert int(trainer.global_step) == 7
    assert _steps_of(tmp_path / "evaluations.jsonl") == [7]
    assert (tmp_path / "checkpoint-000000000007").exists()


def test_ctrl_c_while_compiling_trains_no_step(tmp_path, monkeypatch):
    """A signal before the first call: compiled to the end, but no call is made."""
    trainer = _trainer(directory=tmp_path)
    choose = trainer._choice.loop

    def pressed(**options):
        _press()
        return choose(**options)

    monkeypatch.setattr(trainer._choice, "loop", pressed)
    with trainer:
        with pytest.raises(KeyboardInterrupt):
            trainer.train(until=_UNTIL)
        assert int(trainer.global_step) == 0
        trainer.train(until=3)
    assert _steps_of(tmp_path / "metrics.jsonl") == [1, 2, 3]


@pytest.mark.parametrize("method", ["open", "save", "close"])
def test_ctrl_c_while_opening_saving_or_closing_leaves_nothing_half_done(
    method, tmp_path, monkeypatch
):
    """Each is finished before KeyboardInterrupt is raised, so that the trainer can be used on."""
    trainer = _trainer(directory=tmp_path)
    directory = trainer._directory._directory
    if method != "open":
        trainer.train(until=3)
    if method == "save":
        trainer._directory.saved_step = None
        trainer.global_step.variable.assign(4)
    real = getattr(directory, method)
    done = []

    def pressed(*arguments, **options):
        _press()
        result = real(*arguments, **options)
        done.append(method)
        return result

    monkeypatch.setattr(directory, method, pressed)
    with pytest.raises(KeyboardInterrupt):
        getattr(trainer, method)()
    assert done == [method]
    monkeypatch.setattr(directory, method, real)
    if method == "close":
        with _trainer(directory=tmp_path) as other:
            other.train(until=5)  # The lock was given up.
        return
    with trainer:
        trainer.train(until=5)
    last = 5 if method == "open" else 4
    assert (tmp_path / f"checkpoint-{last:012d}").exists()


def test_a_swap_of_weights_is_undone_by_an_interrupt():
    """Ctrl-C just after the averages took the weights' place: the weights come back."""
    averages = loop.WeightEMA(0.5)
    trainer = _trainer(averages=[averages], evaluation_weights=averages)
    trainer.train(until=5)
    before = steps.values(trainer.state)
    with trainer.evaluated_weights():
        pass
    exchange = averages._exchange

    def pressed():
        exchange()
        _press()

    averages._exchange = pressed
    with pytest.raises(KeyboardInterrupt), trainer.evaluated_weights():
        pytest.fail("entered")
    assert steps.same(before, steps.values(trainer.state))


def test_a_second_ctrl_c_in_a_session_is_an_interrupt_at_once(monkeypatch):
    """In a notebook the process, with all its data, must not end."""
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    reached = []

    def press_twice(_rows):
        _press()
        reached.append("first")
        _press()
        reached.append("second")

    trainer = _trainer(writers=[press_twice])
    with pytest.raises(KeyboardInterrupt, match="second Ctrl-C"):
        trainer.train(until=_UNTIL)
    assert reached == ["first"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_callers_own_is_called_afterwards():
    """The signal comes to the handler from before, when the call is over, and `train` returns."""
    told = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append((number, int(trainer.global_step))))
    trainer = _trainer(writers=[lambda _: _press(signal.SIGTERM) if not told else None])
    trainer.train(until=_UNTIL)
    assert told == [(signal.SIGTERM, int(trainer.global_step))]
    assert trainer.stop_signal == signal.SIGTERM
    assert 0 < int(trainer.global_step) < _UNTIL


def test_an_ignored_signal_stays_ignored():
    """A shell's background job ignores Ctrl-C, and so does its training."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    trainer = _trainer(writers=[lambda _: _press()])
    trainer.train(until=_UNTIL)
    assert int(trainer.global_step) == _UNTIL
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_nothing_is_installed_beside_the_callers_signals_or_in_a_thread():
    """`stop_signals=`, an entered `StopSignals`, and another thread keep the handlers they have."""
    seen = []

    def look(_rows):
        seen.append([signal.getsignal(number) for number in signals.STOP_SIGNALS])

    before = [signal.getsignal(number) for number in signals.STOP_SIGNALS]
    _trainer(writers=[look], stop_signals=loop.StopSignals()).train(until=1)
    thread = threading.Thread(target=_trainer(writers=[look]).train, kwargs={"until": 1})
    thread.start()
    thread.join()
    assert seen == [before, before]
    with loop.StopSignals() as entered:
        trainer = _trainer(writers=[lambda _: _press(signal.SIGTERM)])
        trainer.train(until=_UNTIL)  # Not given, and yet it is the one that notes.
    assert entered.received == trainer.stop_signal == signal.SIGTERM


def test_an_error_is_not_hidden_by_a_signal(caplog):
    """The error of a call that was to be the last is shown, and the signal acts."""

    def fail(number):
        def writer(_rows):
            _press(number)
            raise RuntimeError("the disk is full")

        return writer

    with pytest.raises(KeyboardInterrupt) as raised:
        _trainer(writers=[fail(signal.SIGINT)]).train(until=_UNTIL)
    assert str(raised.value.__context__) == "the disk is full"
    with pytest.raises(SystemExit) as ended:
        _trainer(writers=[fail(signal.SIGTERM)]).train(until=_UNTIL)
    assert ended.value.code == 143
    assert "RuntimeError: the disk is full" in caplog.text
