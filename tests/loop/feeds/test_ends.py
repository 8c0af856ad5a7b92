"""An input that ends ends training: what came before it is trained and saved."""

import json
import logging
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from loop import distribute
from loop.feeds import Dataset, FeedError, Records, ResumableIterator
from tests.loop import steps
from tests.loop.feeds import feed_runs

ENDS = 13
ROOT = pathlib.Path(__file__).parents[3]


def _batches(step, end):
    """The batches of the feed of arrays from a step on, up to `end` of them."""
    arrays, data = feed_runs.arrays_feed(), feed_runs.data()
    for number in range(step, end):
        yield {name: array[arrays.example_ids(number)] for name, array in data.items()}


def _dataset(end=ENDS, break_at=None):
    spec = {
        name: tf.TensorSpec([feed_runs.BATCH, *array.shape[1:]], array.dtype)
        for name, array in feed_runs.data().items()
    }

    def batches(step):
        for number, batch in enumerate(_batches(step, end), step):
            if number == break_at:
                raise OSError("the disk is gone")
            yield batch

    def make(seed, step):
        del seed
        return tf.data.Dataset.from_generator(lambda: batches(step), output_signature=spec)

    return Dataset(make, batch_size=feed_runs.BATCH, seed=5)


class _Counted:
    """An iterator whose state is how many batches it gave."""

    def __init__(self, end=ENDS):
        self._end = end
        self.set_state(0)

    def __next__(self):
        batch = next(self._batches)
        self._given += 1
        return batch

    def get_state(self):
        return self._given

    def set_state(self, state):
        self._given = state
        self._batches = _batches(state, self._end)


def _iterator(end=ENDS):
    return ResumableIterator(_Counted(end), batch_size=feed_runs.BATCH, seed=5)


_KINDS = {"data set": _dataset, "iterator": _iterator}


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("until", [None, 1000])
def test_what_comes_before_the_end_is_trained_and_saved(kind, until, tmp_path, caplog):
    """13 batches: the state is that of 13 steps on arrays, in the checkpoint too; one line says so.

    A call may have up to 5 steps, so the last one is short. The second run opens what has ended.
    """
    expected = feed_runs.trained(feed_runs.arrays_feed(), ENDS)
    for _ in range(2):
        with (
            caplog.at_level(logging.INFO, logger="loop"),
            feed_runs.trainer(_KINDS[kind](), directory=tmp_path) as run,
        ):
            for _ in range(2):
                run.train(until=until)
                assert int(run.global_step) == ENDS
                assert run.stop_reason == "the input ended at step 13"
                assert steps.same(steps.values(run.state), expected)
        lines = [r for r in caplog.records if "the input ended" in r.message]
        assert [line.levelname for line in lines] == ["INFO" if until is None else "WARNING"] * 2
        caplog.clear()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-000000000013"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == ENDS


@pytest.mark.parametrize("kind", _KINDS)
def test_a_run_that_ended_goes_on_with_longer_input(kind, tmp_path):
    """From the end of 13 batches with a feed of 16: the state of 16 steps, bit for bit."""
    with feed_runs.trainer(_KINDS[kind](), directory=tmp_path) as run:
        run.train(until=None)
    with feed_runs.trainer(_KINDS[kind](16), directory=tmp_path) as run:
        run.train(until=16)
        assert run.stop_reason is None
        assert steps.same(steps.values(run.state), feed_runs.trained(feed_runs.arrays_feed(), 16))


def test_the_mode_is_measured_on_a_short_input():
    """`auto`, which tries calls of many steps, leaves a data set of 3 batches as it is."""
    found = feed_runs.trained(_dataset(3), None, compile="auto", steps_per_call=64)
    for name, value in feed_runs.trained(feed_runs.arrays_feed(), 3).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_an_input_that_breaks_is_an_error_after_a_save(tmp_path):
    """The 7 batches before the fault are trained and in the checkpoint; the error is the feed's."""
    run = feed_runs.trainer(_dataset(break_at=7), directory=tmp_path)
    with run, pytest.raises(FeedError, match=r"batch of step 7 failed: .*the disk is gone"):
        run.train(until=None)
    assert int(run.global_step) == 7
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-000000000007"]
    assert steps.same(steps.values(run.state), feed_runs.trained(feed_runs.arrays_feed(), 7))


def test_an_input_of_no_batch_at_all_is_an_error():
    """Nothing at step 0 is a wrong path or filter, not the end of a run."""
    for make in _KINDS.values():
        with pytest.raises(FeedError, match="expected at least one batch of 8 examples, found non"):
            feed_runs.trained(make(0))


def test_a_feed_without_end_is_not_trained_until_its_end(tmp_path):
    """Arrays and records begin anew for ever: a train without a last step is refused."""
    shard = str(tmp_path / "shard")
    with tf.io.TFRecordWriter(shard) as writer:
        writer.write(b"12345678")
    records = Records([shard], lambda text: {"x": tf.io.decode_raw(text, tf.uint8)}, batch_size=1)
    for feed, name in ((feed_runs.arrays_feed(), "Arrays"), (records, "Records")):
        with pytest.raises(ValueError, match=rf"found neither, and {name} gives .* without end"):
            feed_runs.trainer(feed).train()


def test_two_replicas_end_together():
    """On two virtual CPUs, in a process of their own: 13 steps, as on arrays."""
    assert _outputs([sys.executable, "-m", __name__, "replicas"]) == ["same"]


def test_two_workers_end_where_the_first_of_them_does():
    """13 batches on one worker and 11 on the other: both train 11, as on arrays, and say so."""
    launched = [sys.executable, "-m", "experiments.launch", "--workers=2", "--"]
    found = _outputs([*launched, sys.executable, "-m", __name__, "workers"])
    words = [json.loads(line[line.index("{") :]) for line in found]
    assert [word["step"] for word in words] == [11, 11]
    assert all(word["same"] for word in words)
    assert all("worker 1's input ended before" in word["log"] for word in words)


def _outputs(command):
    run = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [line for line in run.stdout.splitlines() if "same" in line]


class _Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.text = ""

    def emit(self, record):
        self.text += record.getMessage() + "\n"


def _on_replicas():
    replicas = distribute.mirrored(virtual_devices=2)
    expected = feed_runs.trained(feed_runs.arrays_feed(), ENDS, replicas=replicas)
    with feed_runs.trainer(_dataset(), replicas=replicas) as run:
        run.train(until=None)
        print("same" if steps.same(steps.values(run.state), expected) else "different")


def _on_workers():
    lines = _Lines()
    logging.getLogger("loop").addHandler(lines)
    replicas = distribute.multi_worker()
    expected = feed_runs.trained(feed_runs.arrays_feed(), 11, replicas=replicas)
    with feed_runs.trainer(_dataset(11 if replicas.worker else ENDS), replicas=replicas) as run:
        run.train(until=None)
        same = steps.same(steps.values(run.state), expected)
        word = {"step": int(run.global_step), "same": same, "log": lines.text}
    print(json.dumps(word), flush=True)


if __name__ == "__main__":
    {"replicas": _on_replicas, "workers": _on_workers}[sys.argv[1]]()
