"""One step outside the compiled loop, on one device and the whole global batch.

For what looks at a step and does not train by it: examples of batches, the count of its operations,
the examination of one that was not finite.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from loop import step_context
from loop.feeds.feed import Batch, Feed
from loop.feeds.layout import layout
from loop.step_context import StepContext


class SingleStep:
    """The inputs of one step, as the training loop would give them to it.

    They are fetched from the feed when this is made; `batch` may then be entered any number of
    times, eagerly or in a trace.

    Args:
      feed: any feed; one that reads in order reads on from there, and goes back when next asked.
      number: the finished steps before it.
      accumulate: micro-batches in the batch.
      hooks: called with the context at its start (Keras's seeds).

    Raises:
      ValueError: if `accumulate` does not divide the batch.
    """

    def __init__(
        self,
        feed: Feed,
        number: int,
        *,
        accumulate: int = 1,
        hooks: Sequence[Callable[[StepContext], None]] = (),
    ) -> None:
        place = layout(feed.batch_size, accumulate=accumulate)
        chunk = feed.chunk(number, 1, 1, place)
        self._feed = feed
        self._hooks = hooks
        self._resident = dict(feed.resident())
        self._chunk = {name: tf.constant(array) for name, array in chunk.items()}
        self._seed = tf.constant(feed.seed, tf.int64)
        self._number = tf.constant(number, tf.int64)
        self._positions = tf.constant(place.positions)

    @contextlib.contextmanager
    def batch(self) -> Iterator[Batch]:
        """The step's batch; inside the `with` block is the step's context, its hooks were run."""
        context = StepContext(
            seed=self._seed,
            global_step=self._number,
            positions=self._positions,
            mask=None,  # One replica's slice is the whole batch, without padding.
            batch_size=self._feed.batch_size,
        )
        with step_context.within(context):
            for hook in self._hooks:
                hook(context)
            yield self._feed.batch(self._resident, self._chunk, tf.constant(0))
