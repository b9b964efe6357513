"""Waits for a condition, never for a fixed time.

Limits are those of the reference machine. They are multiplied by the factor of this machine, and again if a new
measurement shows that the machine has become slower (see `machine`).
"""

import time
from collections.abc import Callable

from halcyon_devcluster import machine
from halcyon_devcluster.errors import DevclusterError

_SHARE = 0.01
"""A condition is checked again after at least this share of the time waited so far: many checks of a long wait only
cost processor time.
"""
_WORTH_WAITING = 1.1
"""The machine has become slower if its factor has grown by this ratio; two measurements of an unchanged machine differ
by less.
"""


def holds_within(
    condition: Callable[[], bool],
    timeout_seconds: float,
    *,
    interval_seconds: float = 0.1,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Whether `condition()` became true within `timeout_seconds` of the reference machine; returns as soon as it is
    true.

    The condition is checked at least once, and then at intervals that grow with the wait. How slow this machine is, is
    asked only after the limit of the reference machine has passed.
    """
    began = time.monotonic()
    deadline = began + timeout_seconds
    allowed = 1.0
    while not condition():
        if time.monotonic() >= deadline:
            slower = max(machine.factor(), allowed)
            if slower < _WORTH_WAITING * allowed:
                slower = machine.measure().factor
            if slower < _WORTH_WAITING * allowed:
                return False
            allowed = slower
            deadline = began + timeout_seconds * allowed
        pause(max(interval_seconds, _SHARE * (time.monotonic() - began)))
    return True


def until(
    condition: Callable[[], bool], *, timeout_seconds: float, failure: Callable[[], str], interval_seconds: float = 0.1
) -> None:
    """Return as soon as `condition()` is true.

    Raises:
        DevclusterError: the condition was not true within `timeout_seconds`; the sentence is the result of `failure()`.
    """
    if not holds_within(condition, timeout_seconds, interval_seconds=interval_seconds):
        raise DevclusterError(failure())
