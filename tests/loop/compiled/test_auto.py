"""The choice of compile mode: what was asked, what was before, what was measured."""

import json

import numpy as np
import pytest
import tensorflow as tf

import loop
from kernels import target
from loop import checkpoint, distribute, layers
from loop.compiled import auto
from loop.compiled.compiled_loop import CompiledLoop
from loop.feeds import layout


class _Run:
    """A small run whose loop the tests choose."""

    def __init__(self, precision=None, feed=None, at_each_step=lambda: None):
        """Makes model, optimizer and feed; Momentum and BatchNorm, so that much could change."""
        rng = np.random.default_rng(5)
        self.step_counter = loop.GlobalStep()
        self.dense = layers.Dense(6, 4, name="dense", seed=1, bias=False)
        self.norm = layers.BatchNorm(4, name="norm", momentum=0.9)
        self.optimizer = loop.optimizers.Momentum(0.1, momentum=0.9)
        self.made = []
        arrays = {"x": rng.normal(2, 3, (50, 6)).astype(np.float32)}
        feed = feed or loop.feeds.Arrays(arrays, batch_size=10)

        def loss(batch):
            at_each_step()
            return tf.reduce_sum(self.norm(self.dense(batch["x"]), training=True) ** 3, -1)

        variables = [*self.dense.trainable_variables, *self.norm.trainable_variables]
        step = loop.GradientStep(loss, variables, self.optimizer, precision=precision)
        self.state = {
            **self.dense.state,
            **self.norm.state,
            **self.optimizer.state,
            "global_step": self.step_counter.variable,
        }

        def make(mode):
            self.made.append(mode)
            return CompiledLoop(
                step,
                feed,
                mode=mode,
                steps_per_call=8,
                global_step=self.step_counter,
                replicas=distribute.single(),
            )

        self.make = make

    def choice(self, cache, asked="auto"):
        """A choice for this run."""
        return auto.Choice(
            self.make, asked, state=self.state, replicas=distribute.single(), cache=cache
        )


@pytest.fixture
def run():
    """A fresh run."""
    return _Run()


def _timed(monkeypatch, seconds):
    """Really runs the steps that are to be timed, and says that they took these times in turn."""
    real, given = auto._seconds_per_step, iter(seconds)

    def timed(loop, start, steps):
        real(loop, start, steps)
        return next(given)

    monkeypatch.setattr(auto, "_seconds_per_step", timed)


# The first time is the graph's alone; then graph and XLA in turns.
_XLA_IS_FASTER = (0.02, 0.020, 0.011, 0.019, 0.010, 0.021, 0.012)
_WHO_KNOWS = (0.02, 0.020, 0.011, 0.010, 0.010, 0.021, 0.012)


def test_asked_mode_is_taken(run, tmp_path):
    """A mode that was asked for is made, and nothing else."""
    assert run.choice(tmp_path / "c.json", "graph").loop(steps=10**9, saved="xla").mode == "graph"
    assert run.made == ["graph"]


def test_saved_mode_is_repeated(run, tmp_path):
    """A resume repeats the run's own choice without measuring."""
    assert run.choice(tmp_path / "c.json").loop(steps=10**9, saved="xla").mode == "xla"
    assert run.made == ["xla"]


def test_short_run_is_not_compiled_for(run, tmp_path):
    """A run that ends in a moment stays with the graph, and its state is untouched to the bit."""
    before = checkpoint.state_sha256(run.state)
    assert run.choice(tmp_path / "c.json").loop(steps=5, saved=None).mode == "graph"
    assert "xla" not in run.made
    assert checkpoint.state_sha256(run.state) == before


def test_measuring_leaves_the_state_and_is_remembered(run, tmp_path, caplog, monkeypatch):
    """Both modes are timed on the real step; the state is as before; the next start only reads."""
    caplog.set_level("INFO", "loop")
    _timed(monkeypatch, _XLA_IS_FASTER)
    cache = tmp_path / "folder" / "compile.json"
    before = checkpoint.state_sha256(run.state)
    chosen = run.choice(cache).loop(steps=10**9, saved=None)
    assert run.made == ["graph", "xla"]
    assert checkpoint.state_sha256(run.state) == before
    assert int(run.step_counter) == 0
    assert chosen.mode == "xla"
    assert list(json.loads(cache.read_text()).values()) == ["xla"]
    assert "fastest of graph 20 ms, xla 11 ms a step" in caplog.text
    # Read and not measured, for which there would be no times.
    content = dict.fromkeys(json.loads(cache.read_text()), "graph")
    cache.write_text(json.dumps(content))
    assert run.choice(cache).loop(steps=10**9, saved=None).mode == "graph"


def test_a_choice_in_doubt_is_not_remembered(run, tmp_path, monkeypatch):
    """Where the rounds do not agree who is faster, the next start measures again."""
    _timed(monkeypatch, _WHO_KNOWS)
    cache = tmp_path / "compile.json"
    assert run.choice(cache).loop(steps=10**9, saved=None).mode == "xla"
    assert not cache.exists()


def test_the_choice_is_really_measured(run, tmp_path):
    """The times are those of the loops: one of the two modes wins, and no step remains."""
    chosen = run.choice(tmp_path / "c.json").loop(steps=10**9, saved=None)
    assert chosen.mode in ("graph", "xla")
    assert int(run.step_counter) == 0


def test_a_damaged_cache_is_measured_again(run, tmp_path, monkeypatch):
    """A cache that is no JSON counts as none."""
    _timed(monkeypatch, _XLA_IS_FASTER)
    cache = tmp_path / "compile.json"
    cache.write_text("{")
    assert run.choice(cache).loop(steps=10**9, saved=None).mode == "xla"
    assert len(json.loads(cache.read_text())) == 1


def test_other_shapes_have_another_key(tmp_path):
    """What was measured for one batch size says nothing of another."""
    one, two = _Run(), _Run()
    cache = tmp_path / "c.json"
    loops = [one.make("graph"), two.make("graph")]
    keys = [run.choice(cache)._key(made) for run, made in zip((one, two), loops, strict=True)]
    assert keys[0] == keys[1]
    two.state["more"] = tf.Variable(1.0)
    assert two.choice(cache)._key(loops[1]) != keys[0]


def test_other_operations_have_another_key(tmp_path):
    """What was measured for one step says nothing of one that computes otherwise."""
    one, two = _Run(), _Run(precision="mixed_bfloat16")
    cache = tmp_path / "c.json"
    assert one.choice(cache)._key(one.make("graph")) != two.choice(cache)._key(two.make("graph"))


def test_gpu_takes_xla_unmeasured(run, tmp_path, monkeypatch):
    """On one GPU the choice is XLA."""
    monkeypatch.setattr(target, "default_device", lambda: "gpu")
    assert run.choice(tmp_path / "c.json").loop(steps=5, saved=None).mode == "xla"


def _operation_that_xla_lacks():
    tf.print("a step", output_stream="file:///dev/null")


def _error_of_xla_only():
    if target.current().compiler == "xla":
        raise NotImplementedError("a kernel that knows graph mode only\nand more lines")


@pytest.mark.parametrize(
    ("at_each_step", "expected"),
    [
        (_operation_that_xla_lacks, "InvalidArgumentError: Detected unsupported operations"),
        (_error_of_xla_only, "NotImplementedError: a kernel that knows graph mode only)"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_step_that_xla_cannot_compile_means_graph(
    at_each_step, expected, device, tmp_path, caplog, monkeypatch
):
    """It is said why in one line, the state is as before, and nothing is remembered."""
    caplog.set_level("INFO", "loop")
    monkeypatch.setattr(target, "default_device", lambda: device)
    _timed(monkeypatch, _XLA_IS_FASTER)
    run, cache = _Run(at_each_step=at_each_step), tmp_path / "c.json"
    before = checkpoint.state_sha256(run.state)
    assert run.choice(cache).loop(steps=10**9, saved=None).mode == "graph"
    assert checkpoint.state_sha256(run.state) == before
    assert not cache.exists()
    line = caplog.messages[-1]
    assert line.startswith("compile=auto: graph, since XLA cannot compile the step (" + expected)
    assert "\n" not in line


def test_a_stream_is_opened_once(tmp_path, monkeypatch):
    """What was read to measure is what the first calls train on, at the step of a resume too."""
    opened = []

    def make(seed, start_step):
        opened.append(start_step)
        steps = tf.data.Dataset.range(start_step, 10**9)
        return steps.map(lambda step: {"x": tf.random.stateless_normal((10, 6), [seed, step])})

    feed = loop.feeds.Dataset(make, batch_size=10, seed=3)
    _timed(monkeypatch, _XLA_IS_FASTER)
    run = _Run(feed=feed)
    run.step_counter.variable.assign(7)
    assert run.choice(tmp_path / "c.json").loop(steps=10**9, saved=None).mode == "xla"
    chunks = [feed.chunk(first, count, 8, layout(10)) for first, count in ((7, 1), (8, 5), (13, 8))]
    read = np.concatenate([c["batch/x"][:n] for c, n in zip(chunks, (1, 5, 8), strict=True)])
    expected = [tf.random.stateless_normal((10, 6), [3, step]) for step in range(7, 21)]
    assert np.array_equal(read, expected)
    assert opened == [7]
