"""Waits for input, and warns when it does not come."""

from __future__ import annotations

import concurrent.futures
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)


def wait_for_input(
    future: Future[T],
    *,
    step: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """The future's result; a warning after `seconds` of waiting, and each time that has doubled.

    A slow source is no error: the run waits on.

    Args:
      future: the next call's input.
      step: finished steps, for the message.
      seconds: until the first warning; above 0.
      clock: seconds since some moment.

    Returns:
      What the future holds. Its exception is raised.
    """
    start = clock()
    limit = seconds
    while True:
        # Its own TimeoutError, were there one, is a result like another.
        done, _ = concurrent.futures.wait([future], timeout=max(0.0, start + limit - clock()))
        if done:
            break
        waited = clock() - start
        if waited >= limit:
            _log.warning(
                "no input for %.3g s: the batch of step %d has not come from the feed yet; the run "
                "waits for it",
                waited,
                step,
            )
            limit = 2 * waited
    if limit > seconds:
        _log.warning("input came after %.3g s; the run goes on", clock() - start)
    return future.result()
