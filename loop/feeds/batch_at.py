"""One batch of a feed as the step sees it, to look at."""

from __future__ import annotations

from loop.feeds.feed import Batch, Feed
from loop.single_step import SingleStep


def batch_at(feed: Feed, step: int) -> Batch:
    """The global batch of `step`, transformed as in the step: for pictures of the augmentation.

    Args:
      feed: any feed; one that reads in order reads on from there, and goes back when next asked.
      step: a global step, whose place the feed knows.
    """
    with SingleStep(feed, step).batch() as batch:
        return batch
