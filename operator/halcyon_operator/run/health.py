"""Checks that the watches show the operator's own writes.

The event loop works if it answers at all. The watch streams work if they show the operator's own writes: every status
write changes a watched object, so the new resource version must come back as an event. A stream that is open but
silent, for example behind a load balancer, is detected by a write that does not come back. Resource versions increase
within a collection, so a later version counts too."""

from __future__ import annotations

from collections.abc import Callable

from halcyon_operator.model.untrusted import integer
from halcyon_operator.model.views import RunKey

STUCK_SECONDS = 180.0


class WriteWatch:
    """Records the operator's own writes that the watch has not shown yet.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._expected: dict[RunKey, tuple[int, float]] = {}
        self._seen: dict[RunKey, int] = {}

    def record_write(self, key: RunKey, resource_version: object) -> None:
        """Record a write of an object, with its new resource version.

        The watch may have shown it before the answer arrived.
        """
        version = integer(resource_version)
        if version is not None and version > self._seen.get(key, 0):
            since = self._expected[key][1] if key in self._expected else self._clock()
            self._expected[key] = (version, since)

    def saw(self, key: RunKey, resource_version: object) -> bool:
        """Record that the watch showed an object at a resource version.

        Returns:
            Whether it is the operator's own write, which has no new information.
        """
        version = integer(resource_version)
        self._seen[key] = max(version or 0, self._seen.get(key, 0))
        expected = self._expected.get(key)
        if expected is None or version is None or version < expected[0]:
            return False
        del self._expected[key]
        return version == expected[0]

    def gone(self, key: RunKey) -> None:
        """Drop an object that does not exist any more."""
        self._expected.pop(key, None)
        self._seen.pop(key, None)

    @property
    def lag_seconds(self) -> float:
        """Age of the oldest write that has not come back."""
        now = self._clock()
        expected = list(self._expected.values())  # copied, because a scrape of the metrics reads from another thread
        return max((now - since for _, since in expected), default=0.0)

    @property
    def stuck(self) -> bool:
        """Whether a write is overdue, so that the watch does not work."""
        return self.lag_seconds > STUCK_SECONDS
