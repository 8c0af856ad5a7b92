"""Runs of a small model that tests of feeds compare bit for bit."""

import numpy as np
import tensorflow as tf

import loop
from loop import distribute, optimizers
from loop.feeds import Arrays
from tests.loop import steps

BATCH = 8
UNTIL = 16


def data():
    """37 examples: no multiple of the batch."""
    return steps.arrays(dtype=np.float32)


def arrays_feed(seed=5, **options):
    """The feed that the others are held to."""
    return Arrays(data(), batch_size=BATCH, seed=seed, **options)


def trainer(feed, replicas=None, **options):
    """A trainer of a model with BatchNorm and dropout on the feed."""
    replicas = replicas or distribute.single()
    with replicas.scope():
        net = steps.Net(dropout=0.3, dtype=tf.float32)
        optimizer = optimizers.Adam(0.02)
        step = loop.GradientStep(steps.squared_errors(net), net.trainable_variables, optimizer)
    state = {"net": net, "optimizer": optimizer}
    options = {"compile": "graph", "steps_per_call": 5, "replicas": replicas, **options}
    return loop.Trainer(step=step, feed=feed, state=state, **options)


def trained(feed, until=UNTIL, **options):
    """The state after a run that is never cut."""
    with trainer(feed, **options) as run:
        run.train(until=until)
        return steps.values(run.state)


def cut(make_feed, directory, *, at=7):
    """The state after a run cut in two, each part with a feed and a trainer of its own."""
    trained(make_feed(), at, directory=directory)
    return trained(make_feed(), UNTIL, directory=directory, steps_per_call=3)


def stopped(feed):
    """The state after a run that stops when the next call is already read, and goes on."""
    actions = [loop.Every(6, lambda run: run.stop("looked enough"))]
    with trainer(feed, actions=actions) as run:
        for _ in range(3):
            run.train(until=UNTIL)
        return steps.values(run.state)
