"""What a user gives for a feed, as a feed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from loop.feeds.dataset import Dataset
from loop.feeds.evaluating import EvaluationFeed, ResidentEvaluation, StreamedEvaluation

_NEEDED = ("batch_size", "seed", "resident", "chunk", "batch", "example_ids")


def as_feed(feed: Any, owner: str) -> Any:
    """The feed itself, or a `Dataset` of a `tf.data.Dataset` of batches.

    Args:
      feed: what was given.
      owner: who asks, for error messages.

    Raises:
      TypeError: on anything else that is no feed; says which one to make of it.
    """
    if isinstance(feed, tf.data.Dataset):
        return Dataset(feed)
    missing = [name for name in _NEEDED if not hasattr(feed, name)]
    if not missing:
        return feed
    raise TypeError(
        f"{owner}: feed expected to be one of loop.feeds or a tf.data.Dataset of batches, found "
        f"{type(feed).__name__} (without {', '.join(missing)}); {_mend(feed)}"
    )


def as_evaluation_feed(feed: Any, owner: str) -> EvaluationFeed:
    """The same for an evaluation, which needs a feed that can give every example once.

    Raises:
      TypeError: on anything else.
    """
    if isinstance(feed, tf.data.Dataset):
        return Dataset(feed)
    if not isinstance(feed, (ResidentEvaluation, StreamedEvaluation)):
        raise TypeError(
            f"{owner}: {type(feed).__name__} expected to have evaluation_chunk or "
            "evaluation_chunks, found neither; use Arrays, Records, or a finite tf.data.Dataset"
        )
    return feed


def _mend(feed: Any) -> str:
    if isinstance(feed, type):
        return f"make one: {feed.__name__}(...)"
    if isinstance(feed, (dict, tuple)) or hasattr(feed, "shape"):
        return "arrays go in as loop.feeds.Arrays(arrays, batch_size=...)"
    if callable(getattr(feed, "get_state", None)):
        return "it goes in as loop.feeds.ResumableIterator(iterator, batch_size=...)"
    if callable(feed):
        return (
            "a function that makes a data set goes in as loop.feeds.Dataset(make, batch_size=...)"
        )
    if isinstance(feed, Iterable):
        return (
            "give the iterator get_state and set_state for loop.feeds.ResumableIterator, or make "
            "a tf.data.Dataset.from_generator of it"
        )
    return "docs/extending.md shows how to write a feed"
