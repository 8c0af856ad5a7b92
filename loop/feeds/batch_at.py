"""One batch of a feed as the step sees it, to look at."""

from __future__ import annotations

import tensorflow as tf

from loop import step_context
from loop.feeds.feed import Batch, Feed
from loop.feeds.layout import layout
from loop.step_context import StepContext


def batch_at(feed: Feed, step: int) -> Batch:
    """The global batch of `step`, transformed as in the step: for pictures of the augmentation.

    Args:
      feed: any feed; one that reads in order reads on from there, and goes back when next asked.
      step: a global step, whose place the feed knows.
    """
    place = layout(feed.batch_size)
    chunk = {name: tf.constant(array) for name, array in feed.chunk(step, 1, 1, place).items()}
    context = StepContext(
        seed=tf.constant(feed.seed, tf.int64),
        global_step=tf.constant(step, tf.int64),
        positions=tf.constant(place.positions),
        mask=None,
        batch_size=feed.batch_size,
    )
    with step_context.within(context):
        return feed.batch(feed.resident(), chunk, tf.constant(0))
