"""What a source of batches may fail with."""


class FeedError(RuntimeError):
    """A source does not hold what the run asks of it; one line that names step or place."""


class DamagedRecordError(FeedError):
    """A record file whose bytes are not what was written; names file and offset."""
