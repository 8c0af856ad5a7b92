"""One step outside the compiled loop."""

import numpy as np
import pytest
import tensorflow as tf

import loop
from loop import layers, step_context
from loop.single_step import SingleStep
from tests.loop import steps


def feed(size=23, batch_size=6):
    """Examples with their numbers, and noise of the step's place added by a transform."""

    def transform(batch):
        context = step_context.current("transform")
        moved = tf.cast(context.positions, tf.float64) + tf.cast(context.global_step, tf.float64)
        return {**batch, "x": batch["x"] + moved[:, None] * 100.0}

    return loop.feeds.Arrays(steps.arrays(size), batch_size=batch_size, seed=7, transform=transform)


@pytest.mark.parametrize("traced", [False, True])
def test_the_batch_is_the_one_that_the_loop_trains_on(traced):
    """A single step's batch and loss are those of the compiled loop at the same step."""

    def step(batch):
        dropped = layers.Dropout(0.5, name="drop")(batch["x"], training=True)
        return {"sum": tf.reduce_sum(batch["x"]), "kept": tf.reduce_sum(dropped), "finite": True}

    trainer = loop.Trainer(step=step, feed=feed(), compile="graph", steps_per_call=16)
    rows = []
    trainer._writers.append(lambda found: rows.extend(found))
    trainer.train(until=9)
    for number in (0, 3, 8):
        single = SingleStep(feed(), number)

        def compute(single=single):
            with single.batch() as batch:
                return step(batch)

        found = (tf.function(compute) if traced else compute)()
        for name in ("sum", "kept"):
            assert float(found[name]) == rows[number][name]


def test_hooks_run_first_and_each_entry_has_its_own_context():
    """Hooks see the step's context before the batch; what one entry records ends with it."""
    seen = []
    single = SingleStep(feed(), 4, hooks=[lambda context: seen.append(int(context.global_step))])
    moving = tf.Variable(0.0)
    for entry in (1, 2):
        with single.batch() as batch:
            context = step_context.current("test")
            assert (seen, context.moving_averages) == ([4] * entry, [])
            context.record(moving, tf.constant(1.0), 0.9, tf.constant(1.0))
            np.testing.assert_array_equal(context.positions, np.arange(6))
            assert batch["x"].shape == (6, 5)
    assert step_context.current_or_none() is None


def test_micro_batches_must_divide_the_batch():
    """A batch that the micro-batches do not divide is refused when the step is made."""
    with pytest.raises(ValueError, match="multiple of accumulate=4"):
        SingleStep(feed(), 0, accumulate=4)
