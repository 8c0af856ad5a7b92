"""What a trainer holds is free when the trainer is, without a search for cycles."""

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

import loop
from loop.compiled.traced import traced_method
from tests.loop import steps


@pytest.fixture
def _no_search():
    """Python looks for cycles by the number of objects: a few large ones may stay for hours."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _run(mode):
    """Trains, evaluates and predicts; weak references to the parts, and to the data on the device.

    The net's BatchNorm has a gradient of its own: TensorFlow's registry keeps such a graph for
    good, so that not even a search would free what it holds.
    """
    net = steps.Net(dropout=0.2, dtype=tf.float32)
    optimizer = loop.optimizers.Momentum(0.05)
    step = loop.GradientStep(steps.squared_errors(net), net.trainable_variables, optimizer)
    feed = loop.feeds.Arrays(steps.arrays(dtype=np.float32), batch_size=8, seed=5)

    def function(batch):
        return {"loss": (net(batch["x"], training=False) - batch["y"]) ** 2}

    trainer = loop.Trainer(
        step=step,
        feed=feed,
        state=net,
        compile=mode,
        evaluation={"one": loop.Evaluation(function, feed)},
        evaluate_every=3,
    )
    trainer.train(until=7)
    predicted = loop.Prediction(function, feed, mode=mode, replicas=trainer.replicas)
    predicted()
    evaluation = trainer._evaluations.compiled["one"]
    parts = {
        "trainer": trainer,
        "step": step,
        "feed": feed,
        "net": net,
        "loop": trainer.compiled_loop(),
        "evaluation": evaluation,
        "prediction": predicted,
    }
    for name, part in list(parts.items())[4:]:
        parts |= {f"{name}/{key}": tensor for key, tensor in part._resident.items()}
    return {name: weakref.ref(part) for name, part in parts.items()}


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.usefixtures("_no_search")
def test_a_trainer_that_is_let_go_frees_its_data_and_its_calls(mode):
    """A notebook's cell that is run again holds the data of one run, not of each."""
    references = _run(mode)
    assert len(references) == 13
    assert [name for name, found in references.items() if found() is not None] == []


@pytest.mark.usefixtures("_no_search")
def test_a_traced_method_holds_its_owner_and_its_captures_no_longer_than_they_are_used():
    """It computes what the method does; with its owner the captured tensor goes."""

    class Owner:
        def __init__(self, table):
            self.table = table
            self.call = traced_method(self.gather)

        def gather(self, index):
            return tf.gather(self.table, index)

    owner = Owner(tf.constant([2.0, 3.0, 5.0]))
    table = weakref.ref(owner.table)
    assert float(owner.call(tf.constant(2))) == 5.0
    kept = owner.call.get_concrete_function(tf.constant(2))
    assert float(kept(tf.constant(1))) == 3.0
    found = weakref.ref(owner)
    del owner, kept
    assert (found(), table()) == (None, None)
