"""Waiting for a condition, never for a time."""

import time
from collections.abc import Callable

from halcyon_devcluster.errors import DevclusterError


def holds_within(
    condition: Callable[[], bool],
    timeout_seconds: float,
    *,
    interval_seconds: float = 0.1,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Whether `condition()` came to hold within `timeout_seconds`; returns as soon as it does. It is asked at least once."""
    deadline = clock() + timeout_seconds
    while not condition():
        if clock() >= deadline:
            return False
        pause(interval_seconds)
    return True


def until(condition: Callable[[], bool], *, timeout_seconds: float, failure: Callable[[], str], interval_seconds: float = 0.1) -> None:
    """Return as soon as `condition()` holds.

    Raises:
        DevclusterError: it did not within `timeout_seconds`; the sentence is what `failure()` then says.
    """
    if not holds_within(condition, timeout_seconds, interval_seconds=interval_seconds):
        raise DevclusterError(failure())
