"""Sources of batches."""

from loop.feeds.arrays import Arrays
from loop.feeds.feed import Batch, Chunk, Feed
from loop.feeds.layout import Layout, layout
from loop.feeds.order import Order

__all__ = ["Arrays", "Batch", "Chunk", "Feed", "Layout", "Order", "layout"]
