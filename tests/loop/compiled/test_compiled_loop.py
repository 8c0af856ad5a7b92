"""Many steps in one compiled call."""

import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf

import loop
from kernels import target
from loop import distribute, optimizers, step_context
from loop.compiled.compiled_loop import NEVER, CompiledLoop, Prepared
from loop.feeds import Arrays
from tests.loop import steps

_MODES = ("eager", "graph", "xla")
_STEPS = 31


def _loop(step, feed, mode="graph", steps_per_call=4, **options):
    return CompiledLoop(
        step,
        feed,
        mode=mode,
        steps_per_call=steps_per_call,
        global_step=loop.GlobalStep(),
        replicas=distribute.single(),
        **options,
    )


@dataclasses.dataclass
class _Case:
    """A loop with dropout, BatchNorm and Adam in one mode, put back to its start for each run."""

    compiled: CompiledLoop
    state: dict
    start: dict
    whole: tuple | None = None

    def run(self, chunks):
        """All rows and the final state of calls of these lengths, from the start."""
        steps.put_back(self.state, self.start)
        tables, step = [], 0
        for count in chunks:
            outcome = self.compiled.run(self.compiled.prepare(step, count), count)
            assert not outcome.stopped
            assert outcome.rows.first_step == step
            assert len(outcome.rows) == count
            tables.append(outcome.rows.table)
            step += count
        return np.concatenate(tables), steps.values(self.state)

    def uncut(self):
        """The whole run in the fewest calls; computed once."""
        if self.whole is None:
            self.whole = self.run([16, _STEPS - 16])
        return self.whole


@pytest.fixture(scope="module")
def cases():
    """One compiled loop for each mode, traced once for the whole file."""
    made = {}
    for mode in _MODES:
        net = steps.Net(dropout=0.3, dtype=tf.float32)
        optimizer = optimizers.Adam(0.01)
        step = loop.GradientStep(
            steps.squared_errors(net), net.trainable_variables, optimizer, accumulate=2
        )
        compiled = _loop(
            step, Arrays(steps.arrays(dtype=np.float32), batch_size=6, seed=5), mode, 16
        )
        state = {**net.state, **optimizer.state, "step": compiled._global_step.variable}
        made[mode] = _Case(compiled, state, steps.values(state))
    return made


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_any_chunks_give_the_same_run(cases, mode):
    """Calls of 1, 7, 10, 16 and mixed lengths give one state and one table, bit for bit."""
    case = cases[mode]
    table, state = case.uncut()
    assert int(state["step"]) == _STEPS
    assert not steps.same(state, case.start)
    for chunks in [[1] * _STEPS, [7] * 4 + [3], [10, 10, 10, 1], [2, 0, 16, 13]]:
        other_table, other_state = case.run(chunks)
        assert np.array_equal(table, other_table)
        assert steps.same(state, other_state)


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_compiled_modes_compute_what_eager_does(cases, mode):
    """The same examples, the same dropped units: rows and state agree to rounding."""
    table, state = cases["eager"].uncut()
    other_table, other_state = cases[mode].uncut()
    np.testing.assert_allclose(other_table, table, rtol=2e-3, atol=1e-4)
    for name, value in state.items():
        np.testing.assert_allclose(other_state[name], value, rtol=5e-3, atol=5e-4, err_msg=name)


def test_one_trace_serves_every_length(cases):
    """After calls of all lengths each compiled loop was traced once; eager never."""
    for case in cases.values():
        case.run([1, 5, 0, 2])
    assert [cases[mode].compiled.traces for mode in _MODES] == [0, 1, 1]


def test_a_call_of_no_steps_changes_nothing(cases):
    """Count 0 compiles, and touches neither state nor counter."""
    for case in cases.values():
        steps.put_back(case.state, case.start)
        outcome = case.compiled.run(case.compiled.prepare(0, 0), 0)
        assert len(outcome.rows) == 0
        assert steps.same(case.start, steps.values(case.state))


def test_rows_are_of_the_steps_that_ran(cases):
    """Columns are the step's, in order; there is no row of padding; the learning rate is exact."""
    case = cases["graph"]
    table, _ = case.run([3])
    outcome = case.compiled.run(case.compiled.prepare(3, 2), 2)
    assert table.shape == (3, 6)
    assert outcome.rows.columns == (
        *("loss", "learning_rate", "gradient_norm", "clipped", "finite"),
        "absolute",
    )
    assert set(outcome.rows["learning_rate"]) == {float(np.float32(0.01))}
    assert [row["step"] for row in outcome.rows] == [4, 5]


def test_a_changed_argument_is_named_not_traced_again(cases):
    """A chunk of another dtype, shape or with other arrays raises and says which."""
    case = cases["graph"]
    case.run([2])
    chunk = case.compiled.prepare(2, 2).chunk
    for changed, message in [
        ({**chunk, "index": tf.cast(chunk["index"], tf.int64)}, r"index was int32.*is int64"),
        ({**chunk, "index": chunk["index"][:, :4]}, r"index was int32\(16, 6\), is int32\(16, 4\)"),
        ({**chunk, "mask": chunk["index"] > 0}, r"mask was absent, is bool\(16, 6\)"),
    ]:
        with pytest.raises(RuntimeError, match=f"would be traced again, since {message}"):
            case.compiled.run(Prepared(changed, 2), 2)
    assert case.compiled.traces == 1
    with pytest.raises(ValueError, match=r"count must be in \[0, steps_per_call=16\], got 17"):
        case.compiled.run(Prepared(chunk, 2), 17)


def test_operations_lists_what_was_traced(cases):
    """The graph's operation types, inner functions' too; eager mode has none."""
    assert {"MatMul", "While", "GatherV2"} <= {
        operation.removeprefix("Stateless") for operation in cases["graph"].compiled.operations()
    }
    with pytest.raises(ValueError, match="eager mode has no graph"):
        cases["eager"].compiled.operations()


def _counting_feed(bad_steps=()):
    """A feed whose batch s is the number s, or NaN; it stands for any source that a user writes."""

    def chunk(first_step, count, capacity, _layout):
        numbers = np.arange(first_step, first_step + capacity, dtype=np.float64)
        numbers[count:] = np.nan  # padding: must never be read
        return {"number": np.where(np.isin(numbers, bad_steps), np.nan, numbers)}

    return types.SimpleNamespace(
        batch_size=1,
        seed=0,
        resident=dict,
        chunk=chunk,
        batch=lambda _resident, chunk, row: {"number": chunk["number"][row]},
        example_ids=lambda _step: None,
    )


def _run(compiled, first_step, count, **options):
    return compiled.run(compiled.prepare(first_step, count), count, **options)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_the_first_bad_step_ends_the_call_uncounted(mode):
    """Steps 0 to 4 count, step 5 is in the rows but not in the counter, 6 is not run."""
    total = tf.Variable(0.0, dtype=tf.float64)

    def step(batch):
        finite = tf.math.is_finite(batch["number"])
        total.assign_add(tf.where(finite, batch["number"], 0))
        return {"number": batch["number"], "finite": finite}

    compiled = _loop(step, _counting_feed([5]), mode, 8)
    outcome = _run(compiled, 0, 8)
    assert outcome.stopped
    assert outcome.streak == 1
    assert len(outcome.rows) == 6
    assert np.isnan(outcome.rows["number"][5])
    assert int(compiled._global_step) == 5
    assert float(total) == 0 + 1 + 2 + 3 + 4


def test_bad_steps_are_skipped_up_to_the_limit_across_calls():
    """A streak goes on over the end of a call, and a good step ends it."""
    compiled = _loop(
        lambda batch: {"number": batch["number"]}, _counting_feed([1, 3, 4, 5, 7, 8, 9]), "graph", 8
    )
    outcome = _run(compiled, 0, 5, max_nonfinite=3)
    assert (outcome.stopped, outcome.streak, int(compiled._global_step)) == (False, 2, 5)
    outcome = _run(compiled, 5, 3, max_nonfinite=3, streak=outcome.streak)
    assert (outcome.stopped, outcome.streak, int(compiled._global_step)) == (False, 1, 8)
    outcome = _run(compiled, 8, 4, max_nonfinite=2, streak=outcome.streak)
    assert (outcome.stopped, outcome.streak, int(compiled._global_step)) == (True, 3, 9)
    outcome = _run(compiled, 9, 1, max_nonfinite=NEVER)
    assert (outcome.stopped, int(compiled._global_step)) == (False, 10)


def test_the_step_sees_its_place_and_its_compiler():
    """Seed, global step and positions are the loop's; hooks come first; kernels know the mode."""
    seen = []

    def step(batch):
        context = step_context.current("test")
        seen.append(target.current().compiler)
        return {
            "seed": context.seed,
            "at": context.global_step,
            "last": context.positions[-1],
            "batch": batch["x"][0, 0],
            "hooked": hooked.read_value(),
        }

    hooked = tf.Variable(0, dtype=tf.int64)

    def hook(context):
        hooked.assign(context.global_step * 10)

    feed = Arrays(steps.arrays(), batch_size=6, seed=77)
    compiled = _loop(step, feed, "graph", 4, hooks=[hook])
    rows = _run(compiled, 0, 4).rows
    assert rows["at"].tolist() == [0, 1, 2, 3]
    assert rows["hooked"].tolist() == [0, 10, 20, 30]
    assert set(rows["seed"]) == {77}
    assert set(rows["last"]) == {5}
    assert rows["batch"].tolist() == [
        feed.arrays["x"][feed.example_ids(step)[0], 0] for step in range(4)
    ]
    assert seen == ["graph"]


def test_refuses_what_cannot_work():
    """Unknown modes, empty calls and unequal micro-batches are refused at construction."""
    feed = Arrays(steps.arrays(), batch_size=6)
    for options, message in [
        ({"mode": "jit"}, "mode must be 'xla', 'graph' or 'eager', got 'jit'"),
        ({"steps_per_call": 0}, "steps_per_call must be at least 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            _loop(dict, feed, **options)
    accumulating = types.SimpleNamespace(accumulate=4)
    with pytest.raises(
        ValueError, match="batch_size=6 must be a positive multiple of accumulate=4"
    ):
        _loop(accumulating, feed)


def test_a_second_trace_is_an_error():
    """Whatever makes TensorFlow trace again, the run stops instead of compiling for ever."""
    compiled = _loop(lambda batch: {"number": batch["number"]}, _counting_feed(), "graph")
    _run(compiled, 0, 2)
    arguments = list(compiled._arguments(compiled.prepare(2, 2).chunk, 2, 0, 0))
    arguments[1] = tf.constant([2, 0, 0], tf.int64)
    with pytest.raises(RuntimeError, match="a second trace of one signature"):
        compiled._call(*arguments)
