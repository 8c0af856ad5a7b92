"""The outer loop: boundaries, resume, stopping."""

import json
import logging
import os
import pathlib
import sys
import types
import warnings

import numpy as np
import pytest
import tensorflow as tf

import loop
from loop import optimizers
from loop.compiled import auto
from loop.feeds import Arrays
from loop.run.directory import RunDirectory
from tests.loop import steps

_UNTIL = 40


def _parts(seed=5, dropout=0.3, data=None):
    net = steps.Net(dropout=dropout, dtype=tf.float32)
    optimizer = optimizers.Adam(0.02)
    data = steps.arrays(dtype=np.float32) if data is None else data
    step = loop.GradientStep(steps.squared_errors(net), net.trainable_variables, optimizer)
    evaluation = loop.Evaluation(
        lambda batch: {"loss": (net(batch["x"], training=False) - batch["y"]) ** 2},
        Arrays(data, batch_size=10),
    )
    return {
        "step": step,
        "feed": Arrays(data, batch_size=8, seed=seed),
        "state": {"net": net, "optimizer": optimizer},
        "evaluation": evaluation,
    }


def _trainer(seed=5, data=None, **options):
    return loop.Trainer(**{"compile": "graph", **_parts(seed, data=data), **options})


def _recorder(log, name):
    def record(trainer):
        log.append((name, int(trainer.global_step), steps.values(trainer.state)))

    return record


@pytest.fixture(scope="module")
def uncut(tmp_path_factory):
    """A run of 40 steps without a stop: its directory, trainer, actions' log and calls."""
    directory = tmp_path_factory.mktemp("uncut")
    log, calls = [], []
    trainer = _trainer(
        directory=directory,
        steps_per_call=64,
        evaluate_every=10,
        checkpoint_every=20,
        actions=[
            loop.Every(7, _recorder(log, "seven"), at_end=True),
            loop.Every(10, lambda t: log.append(("evaluated", t.evaluations[-1][0], None))),
        ],
        writers=[lambda rows: calls.append(len(rows))],
    )
    with trainer:
        trainer.train(until=_UNTIL)
    return types.SimpleNamespace(directory=directory, trainer=trainer, log=log, calls=calls)


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_boundaries_are_hit_exactly(uncut):
    """Every multiple of 7 and of 10 ends a call, and actions see that very step."""
    assert [step for name, step, _ in uncut.log if name == "seven"] == [7, 14, 21, 28, 35, 40]
    assert [step for name, step, _ in uncut.log if name == "evaluated"] == [10, 20, 30, 40]
    ends = set(np.cumsum(uncut.calls))
    assert {7, 10, 14, 20, 21, 28, 30, 35, 40} <= ends
    assert sum(uncut.calls) == _UNTIL


def test_other_steps_a_call_show_actions_the_same_states(uncut):
    """With 3 steps a call the state at each boundary, and the end, are bit for bit the same."""
    log = []
    trainer = _trainer(
        steps_per_call=3, actions=[loop.Every(7, _recorder(log, "seven"), at_end=True)]
    )
    trainer.train(until=_UNTIL)
    seen = [entry for entry in uncut.log if entry[0] == "seven"]
    assert len(log) == len(seen) == 6
    for (_, step, state), (_, other_step, other_state) in zip(seen, log, strict=True):
        assert step == other_step
        assert steps.same(state, other_state)
    assert trainer.traces == uncut.trainer.traces == 1


def test_metrics_have_a_line_a_step(uncut):
    """metrics.jsonl has steps 1 to 40 once each, and evaluations.jsonl each evaluation."""
    lines = _lines(uncut.directory / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, _UNTIL + 1))
    assert set(lines[0]) == {
        *("step", "loss", "learning_rate", "gradient_norm", "clipped", "finite", "absolute")
    }
    assert lines[-1]["loss"] == uncut.trainer.rows["loss"][-1]
    evaluations = _lines(uncut.directory / "evaluations.jsonl")
    assert [line["step"] for line in evaluations] == [10, 20, 30, 40]
    assert [line["loss"] for line in evaluations] == [
        r["loss"] for _, r in uncut.trainer.evaluations
    ]
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]


def test_checkpoints_at_their_interval_and_the_end(uncut):
    """Steps 20 and 40 were saved; the end's is not written twice."""
    names = sorted(path.name for path in uncut.directory.glob("checkpoint-*"))
    assert [int(name.split("-")[1]) for name in names] == [20, 40]


def test_the_meter_counts_every_step(uncut):
    """All 40 steps of 8 examples were timed, and every phase of this run took time."""
    meter = uncut.trainer.meter
    assert (meter.steps, meter.examples) == (_UNTIL, _UNTIL * 8)
    assert all(meter.seconds[phase] > 0 for phase in ("compile", "train", "evaluate", "checkpoint"))


@pytest.mark.parametrize("cut", [13, 20])
def test_resume_in_the_middle_of_an_epoch_is_exact(uncut, tmp_path, cut):
    """Cut at 13 or 20 (an epoch is 4.6 steps) and resumed with other calls: the same bits."""
    with _trainer(directory=tmp_path, steps_per_call=5) as first:
        first.train(until=cut)
    with _trainer(directory=tmp_path, steps_per_call=9) as second:
        restored = second.open()
        assert int(second.global_step) == cut
        assert str(cut) in str(restored.path)
        second.train(until=_UNTIL)
    assert steps.same(steps.values(second.state), steps.values(uncut.trainer.state))
    assert (tmp_path / "metrics.jsonl").read_bytes() == (
        uncut.directory / "metrics.jsonl"
    ).read_bytes()


def test_steps_after_the_last_checkpoint_are_written_again(uncut, tmp_path):
    """A run that dies without saving leaves lines of steps that the resumed run repeats."""

    def die(_trainer):
        raise KeyboardInterrupt

    first = _trainer(directory=tmp_path, checkpoint_every=10, actions=[loop.Every(17, die)])
    with first, pytest.raises(KeyboardInterrupt):
        first.train(until=_UNTIL)
    assert len(_lines(tmp_path / "metrics.jsonl")) == 17
    with _trainer(directory=tmp_path) as second:
        second.train(until=_UNTIL)
    lines = (tmp_path / "metrics.jsonl").read_bytes()
    assert lines == (uncut.directory / "metrics.jsonl").read_bytes()


def test_train_goes_on_and_stops_where_told():
    """Two calls of train make one run; at or below the current step nothing is trained."""
    trainer = _trainer()
    trainer.train(until=6)
    trainer.train(until=9)
    before = steps.values(trainer.state)
    trainer.train(until=9)
    trainer.train(until=4)
    assert int(trainer.global_step) == 9
    assert steps.same(before, steps.values(trainer.state))
    assert trainer.stop_reason is None
    assert trainer.traces == 1


def test_an_action_can_stop_the_run(tmp_path):
    """A stop ends training at that boundary, with a checkpoint of its step, and can be undone."""
    actions = [loop.Every(6, lambda trainer: trainer.stop("enough"))]
    with _trainer(directory=tmp_path, actions=actions) as trainer:
        trainer.train(until=_UNTIL)
        assert trainer.stop_reason == "enough"
        assert int(trainer.global_step) == 6
        trainer.train(until=_UNTIL)
        assert int(trainer.global_step) == 12
    names = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert [int(name.split("-")[1]) for name in names] == [6, 12]


def test_a_signal_ends_the_run_after_its_call(tmp_path):
    """A noted signal ends training where the call ends, saved."""
    signals = loop.StopSignals()

    def arrive(_rows):
        signals.received = 15

    with _trainer(
        directory=tmp_path, steps_per_call=4, writers=[arrive], stop_signals=signals
    ) as trainer:
        trainer.train(until=_UNTIL)
    assert trainer.stop_reason == "signal 15"
    assert 1 <= int(trainer.global_step) <= 4
    assert len(list(tmp_path.glob("checkpoint-*"))) == 1


def test_a_call_ends_within_about_a_second():
    """Where steps are slow, calls are shorter than steps_per_call."""
    calls = []
    trainer = _trainer(steps_per_call=64, writers=[lambda rows: calls.append(len(rows))])
    trainer.meter.seconds["train"] = 1e6 * 0.3
    trainer.meter.count(10**6, 0)
    trainer.train(until=10)
    assert calls == [3, 3, 3, 1]


def _broken_data():
    data = steps.arrays(dtype=np.float32)
    order = Arrays(data, batch_size=8, seed=5)
    bad = order.example_ids(4)[2]
    data["x"][bad, 1] = np.nan
    return data, bad


def test_a_step_that_is_not_finite_stops_with_its_name(tmp_path):
    """The error names step, seed and example ids, and the weights are those of the step before."""
    data, bad = _broken_data()
    clean = _trainer(data=data)
    first = next(s for s in range(9) if bad in clean.feed.example_ids(s))
    clean.train(until=first)
    with (
        _trainer(data=data, directory=tmp_path) as trainer,
        pytest.raises(loop.NonFiniteError) as error,
    ):
        trainer.train(until=_UNTIL)
    assert error.value.step == first
    message = str(error.value)
    ids = ", ".join(map(str, trainer.feed.example_ids(first)))
    assert f"step {first} is not finite" in message
    assert f"seed 5, examples {ids}" in message
    assert "\n" not in message
    assert int(trainer.global_step) == first
    assert steps.same(steps.values(clean.state), steps.values(trainer.state))


def test_steps_that_are_not_finite_can_be_skipped():
    """With "skip" the run goes on past them, up to the limit in a row."""
    data, bad = _broken_data()
    trainer = _trainer(data=data, on_nonfinite="skip", max_nonfinite=2)
    rows = []
    trainer._writers.append(lambda found: rows.extend(found))
    trainer.train(until=_UNTIL)
    assert int(trainer.global_step) == _UNTIL
    skipped = [int(row["step"]) - 1 for row in rows if not row["finite"]]
    assert skipped == [s for s in range(_UNTIL) if bad in trainer.feed.example_ids(s)]
    assert all(np.isfinite(value).all() for value in steps.values(trainer.state).values())
    assert trainer.state["optimizer/update_count"].numpy() == _UNTIL - len(skipped)
    everywhere = steps.arrays(dtype=np.float32)
    everywhere["x"][:] = np.nan
    trainer = _trainer(data=everywhere, on_nonfinite="skip", max_nonfinite=2)
    with pytest.raises(
        loop.NonFiniteError, match="step 2 is not finite after 3 such steps in a row"
    ):
        trainer.train(until=_UNTIL)


def test_a_feed_that_fails_ahead_of_time_fails_the_run():
    """An error while the next call's input is fetched in the background is not lost."""
    trainer = _trainer(steps_per_call=2)
    chunk = trainer.feed.chunk

    def failing(first_step, *arguments):
        if first_step >= 9:
            raise OSError("the disk is gone")
        return chunk(first_step, *arguments)

    trainer.feed.chunk = failing
    with pytest.raises(OSError, match="the disk is gone"):
        trainer.train(until=_UNTIL)
    assert int(trainer.global_step) in (9, 10)  # all that was fetched before the error


def test_a_resume_with_another_seed_is_refused(tmp_path):
    """Another seed is another run: other examples, other noise."""
    with _trainer(directory=tmp_path) as first:
        first.train(until=2)
    with (
        _trainer(seed=6, directory=tmp_path) as second,
        pytest.raises(
            RuntimeError, match=r"the settings or the data differ from the saved run's .*seed"
        ),
    ):
        second.train(until=4)


def test_a_resume_in_another_mode_says_that_it_is_not_exact(tmp_path, caplog):
    """It goes on, with a warning that names the compile mode."""
    with _trainer(directory=tmp_path) as first:
        first.train(until=2)
    with caplog.at_level(logging.WARNING), _trainer(directory=tmp_path, compile="eager") as second:
        second.train(until=3)
    assert [
        r.message for r in caplog.records if "not bit-exact" in r.message and "compile" in r.message
    ]
    assert int(second.global_step) == 3


def test_auto_says_what_it_chose(caplog):
    """A run too short to pay for XLA's compilation takes the graph, in one log line."""
    with caplog.at_level(logging.INFO):
        trainer = _trainer(compile="auto")
        trainer.train(until=1)
    assert trainer.mode == "graph"
    lines = [record.message for record in caplog.records if "compile=auto" in record.message]
    assert len(lines) == 1
    assert "compile=auto: graph, the run takes" in lines[0]


def _weights(trainer):
    return {name: value for name, value in steps.values(trainer.state).items() if "net" in name}


@pytest.mark.parametrize(
    "used",
    [
        lambda trainer: trainer.evaluate(),
        lambda trainer: trainer.save(),
        lambda trainer: trainer.examine(),
        lambda trainer: trainer.evaluated_weights(),
        lambda trainer: trainer.mode,
        lambda trainer: trainer.compiled_loop(),
        lambda trainer: trainer.train(until=0),
    ],
    ids=["evaluate", "save", "examine", "evaluated_weights", "mode", "compiled_loop", "train"],
)
def test_what_needs_the_run_opens_it(uncut, tmp_path, used):
    """Without `open`, each sees the run that the directory holds, which can then be trained on."""
    with _trainer(directory=tmp_path) as first:
        first.train(until=20)
    with _trainer(directory=tmp_path) as second:
        used(second)
        assert int(second.global_step) == 20
        assert steps.same(_weights(second), _weights(first))
        with pytest.raises(RuntimeError, match="already open"):
            second.open()
        second.train(until=_UNTIL)
    assert steps.same(steps.values(second.state), steps.values(uncut.trainer.state))


def test_evaluations_known_and_written_without_train(tmp_path):
    """A trainer that only evaluates adds its line to the run's, and makes a run where none is."""
    with _trainer(directory=tmp_path) as first:
        fresh = first.evaluate()
        first.train(until=3)
    with _trainer(directory=tmp_path) as second:
        later = second.evaluate()
    assert second.evaluations == [(0, fresh), (3, later)]
    assert _lines(tmp_path / "evaluations.jsonl") == [{"step": 0, **fresh}, {"step": 3, **later}]


@pytest.mark.parametrize("directory", [True, False], ids=["directory", "none"])
def test_evaluation_does_not_choose_the_mode_of_training(directory, tmp_path, monkeypatch):
    """What asks before training has the graph; training then chooses for all its steps."""
    asked = []
    choose = auto.Choice.loop

    def chosen(choice, *, steps, **_):
        asked.append(steps)
        return choose(choice, steps=steps, saved="xla")  # As if it had been measured fastest.

    monkeypatch.setattr(auto.Choice, "loop", chosen)
    actions = [loop.Every(10**6, lambda t: t.evaluate(), at_start=True)]
    trainer = _trainer(compile="auto", directory=tmp_path if directory else None, actions=actions)
    with trainer:
        before = trainer.evaluate()
        trainer.save()
        trainer.train(until=0)
        assert (trainer.mode, trainer._evaluations.compiled[""].mode) == ("graph", "graph")
        assert asked == []
        trainer.train(until=2)  # Its evaluation at the start is already in its own mode.
        assert (trainer.mode, trainer._evaluations.compiled[""].mode) == ("xla", "xla")
    assert asked == [2]
    assert trainer.evaluations[0] == (0, before)
    if directory:
        with _trainer(compile="auto", directory=tmp_path) as second:
            second.evaluate()
            assert second.mode == "xla"


def test_a_loop_asked_for_without_a_length_is_measured(monkeypatch):
    """`compiled_loop()` chooses as for a long run, not as for one of no steps."""
    lengths = []

    def measured(_choice, graph, steps, _key):
        lengths.append(steps)
        return graph

    monkeypatch.setattr(auto.Choice, "_measured", measured)
    monkeypatch.setattr(auto, "_read", lambda _: {})
    _trainer(compile="auto").compiled_loop()
    assert lengths == [sys.maxsize]


def test_a_closed_trainer_writes_nothing_more(tmp_path):
    """It refuses in a line what would write; what only looks still works; closing again is fine."""
    with _trainer(directory=tmp_path) as trainer:
        trainer.train(until=2)
    trainer.close()
    for refused in (
        lambda: trainer.train(until=3),
        trainer.evaluate,
        trainer.save,
        trainer.open,
    ):
        with pytest.raises(RuntimeError, match=r"Trainer: closed, and .* given up"):
            refused()
    assert trainer.mode == "graph"
    assert trainer.examine().finite
    with trainer.evaluated_weights():
        pass
    assert int(trainer.global_step) == 2
    never = _trainer(directory=tmp_path / "never")
    never.close()
    with pytest.raises(RuntimeError, match=r"Trainer: closed"):
        never.examine()
    assert not (tmp_path / "never").exists()


def test_a_closed_trainer_without_a_directory_goes_on():
    """It has given nothing up."""
    with _trainer() as trainer:
        trainer.train(until=2)
    assert trainer.evaluate()
    trainer.train(until=3)
    assert int(trainer.global_step) == 3


def test_a_refused_open_gives_the_lock_back(tmp_path):
    """The same trainer says the same again, and another one can take the directory."""
    with _trainer(directory=tmp_path) as first:
        first.train(until=2)
    other = _trainer(seed=6, directory=tmp_path)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"the settings or the data differ"):
            other.evaluate()
    with _trainer(directory=tmp_path) as second:
        assert second.evaluate()


def test_memory_stays_flat_over_many_steps(tmp_path):
    """From step 1,000 to 4,000 the process grows by less than a kilobyte a step, in one trace."""
    resident = {}

    def measure(trainer):
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        resident[int(trainer.global_step)] = pages * os.sysconf("SC_PAGE_SIZE")

    actions = [loop.Every(1000, measure)]
    with _trainer(directory=tmp_path, steps_per_call=50, actions=actions) as trainer:
        trainer.train(until=4000)
    assert trainer.traces == 1
    assert resident[4000] - resident[1000] < 3000 * 1024


def test_closing_leaves_no_file_open(tmp_path):
    """After the with block nothing is left for the garbage collector to warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        directory = RunDirectory(tmp_path)
        with _trainer(directory=directory) as trainer:
            trainer.train(until=1)
    assert directory.step_lines._file.closed
    assert directory.evaluation_lines._file.closed


def test_bad_arguments_are_refused_at_construction():
    """Wrong intervals, an evaluation that is missing, a state that is no state."""
    for options, error, message in [
        ({"checkpoint_every": -1}, ValueError, "steps must be at least 1, got -1"),
        ({"on_nonfinite": "ignore"}, ValueError, "on_nonfinite must be stop or skip, got 'ignore'"),
        ({"evaluate_every": 5, "evaluation": None}, ValueError, "evaluate_every=5 needs an"),
        ({"state": {"net": object()}}, TypeError, "cannot tell the variables of object"),
    ]:
        with pytest.raises(error, match=message):
            _trainer(**options)
    with pytest.raises(TypeError):
        loop.Trainer(*_parts().values())
    with pytest.raises(ValueError, match="made without an evaluation"):
        _trainer(evaluation=None).evaluate()


def test_a_writer_that_cannot_write_ends_nothing(caplog):
    """It is given nothing more, which is said once; the others are, and training goes on."""
    calls, rows = [], []

    def full(_rows):
        calls.append(1)
        raise OSError(28, "No space left on device")

    with _trainer(steps_per_call=4, writers=[full, rows.extend]) as trainer:
        trainer.train(until=13)
    assert (len(calls), len(rows), int(trainer.global_step)) == (1, 13, 13)
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == [
        "function cannot write ([Errno 28] No space left on device): it is given nothing more"
    ]


def test_a_writer_that_cannot_write_results_ends_nothing(caplog):
    """The results of an evaluation are as little a reason to end as the rows are."""

    class Full:
        def __call__(self, rows):
            calls.append(len(rows))

        def evaluated(self, *_):
            raise OSError(28, "No space left on device")

    calls = []
    with _trainer(steps_per_call=4, writers=[Full()], evaluate_every=5) as trainer:
        trainer.train(until=12)
    assert int(trainer.global_step) == 12
    assert sum(calls) < 12
    assert caplog.text.count("Full cannot write") == 1


def test_a_writer_with_a_fault_loses_no_step(tmp_path):
    """Its error ends training after what is due there and a save: a resume is the uncut run."""

    def faulty(rows):
        if rows.first_step + len(rows) >= 6:
            raise KeyError("loos")

    log = []
    options = {"evaluate_every": 3, "actions": [loop.Every(3, _recorder(log, "three"))]}
    with _trainer(**options) as whole:
        whole.train(until=12)
    expected, log[:] = [*log], []
    with _trainer(directory=tmp_path, writers=[faulty], **options) as first:
        with pytest.raises(KeyError, match="loos"):
            first.train(until=12)
        stopped = int(first.global_step)
    assert stopped >= 6
    with _trainer(directory=tmp_path, **options) as second:
        second.open()
        assert int(second.global_step) == stopped
        second.train(until=12)
    assert [step for _, step, _ in log] == [step for _, step, _ in expected]
    assert steps.same(log[-1][2], expected[-1][2])
    assert [step for step, _ in second.evaluations] == [step for step, _ in whole.evaluations]
