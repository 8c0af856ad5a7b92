"""Sources of batches."""

from loop.feeds.arrays import Arrays
from loop.feeds.as_feed import as_feed
from loop.feeds.batch_at import batch_at
from loop.feeds.dataset import Dataset, repeated
from loop.feeds.errors import DamagedRecordError, FeedError
from loop.feeds.evaluating import EvaluationFeed
from loop.feeds.facts import HasFacts, facts_of
from loop.feeds.feed import Batch, Chunk, Feed
from loop.feeds.iterator import ResumableIterator
from loop.feeds.layout import Layout, layout
from loop.feeds.order import Order
from loop.feeds.position import HasState
from loop.feeds.record_files import RecordFiles
from loop.feeds.records import Records

__all__ = [
    "Arrays",
    "Batch",
    "Chunk",
    "DamagedRecordError",
    "Dataset",
    "EvaluationFeed",
    "Feed",
    "FeedError",
    "HasFacts",
    "HasState",
    "Layout",
    "Order",
    "RecordFiles",
    "Records",
    "ResumableIterator",
    "as_feed",
    "batch_at",
    "facts_of",
    "layout",
    "repeated",
]
