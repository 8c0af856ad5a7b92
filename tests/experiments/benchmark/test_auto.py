"""The race of auto's candidates: which they are, which was chosen, how far it is from the best."""

import typing

import pytest

from experiments.benchmark import tables
from experiments.benchmark.contenders.table import CONTENDERS
from experiments.benchmark.measurement import Options, whole
from experiments.benchmark.measurements import auto
from experiments.benchmark.process import Ready
from loop.compiled.compiled_loop import Mode
from loop.run import calls


def _ready(compile: str, steps: int) -> Ready:
    return Ready(1, 1, [], 10.0, steps, compile, "", {})


def test_every_compiled_mode_is_a_candidate() -> None:
    """A mode that is added to the loop has to be added to the race, with a contender of its own."""
    assert {*auto.MODES, "eager"} == set(typing.get_args(Mode))
    for mode in auto.MODES:
        assert CONTENDERS[f"tapestep_{mode}"].settings == {"compile": mode, "as_told": True}


def test_a_call_is_cut_where_the_trainer_cuts_it() -> None:
    """The referee knows the trainer's limit without TensorFlow; 64 steps of 20 ms are over it."""
    assert auto.CALL_SECONDS == calls.CALL_SECONDS
    assert auto.is_cut(64, 20.0)
    assert not auto.is_cut(8, 20.0)


def test_a_choice_is_the_candidate_that_runs_alike() -> None:
    """Of the same compiler, with the most steps a call that are not more than chosen."""
    candidates = [("graph", 1), ("graph", 8), ("xla", 1), ("xla", 64)]
    assert auto.candidate_of(("graph", 256), candidates) == ("graph", 8)
    assert auto.candidate_of(("xla", 64), candidates) == ("xla", 64)
    assert auto.candidate_of(("xla", 8), candidates) == ("xla", 1)
    assert auto.candidate_of(("hybrid", 8), candidates) is None


def test_rows_say_how_far_the_choice_is_from_the_best() -> None:
    """Ratios are to the candidate of the least median, auto's own process included."""
    heat = {"graph x 1": [4.0] * 5, "xla x 1": [2.0] * 5, "auto": [4.4] * 5}
    ready = {name: _ready(*name.split(" x ")[:1], 1) for name in ("graph x 1", "xla x 1")}
    ready["auto"] = _ready("graph", 256)
    choices = [("graph", 256), ("graph", 256), ("xla", 256)]
    rows = {row["candidate"]: row for row in auto.rows("tiny", heat, ready, choices)}
    assert {name: row["ratio"] for name, row in rows.items()} == {
        "graph x 1": 2.0,
        "xla x 1": 1.0,
        "auto": 2.2,
    }
    assert {name: row["chosen"] for name, row in rows.items()} == {
        "graph x 1": 2,
        "xla x 1": 1,
        "auto": 3,
    }
    table = tables.render("auto", list(rows.values()))
    assert "| tiny | auto (graph x 256) | 4.4 (4.4-4.4) | **2.20** | 3 |" in table


def test_a_race_of_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes: a candidate of one step a call, and auto's choice, made afresh."""
    monkeypatch.setattr(auto, "MODES", ("graph",))
    monkeypatch.setattr(auto, "QUICK_CALL_LENGTHS", (1,))
    monkeypatch.setattr(auto, "QUICK_TRIES", 1)
    options = Options(quick=True, workloads=["tiny"], seconds=0.02)
    result = whole(auto.run(options))
    candidate, chosen = result["rows"]
    assert (candidate["candidate"], candidate["ratio"]) == ("graph x 1", 1.0)
    assert (candidate["compile"], candidate["steps_per_call"]) == ("graph", 1)
    assert chosen["candidate"] == auto.AUTO
    assert chosen["compile"] in ("graph", "xla")
    assert chosen["ratio"] > 0
    setting = {key: chosen[key] for key in ("compile", "steps_per_call")}
    assert result["choices"] == [{"workload": "tiny", "tries": [setting]}]
    assert result["missing"] == []
