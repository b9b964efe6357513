"""Whether the operator's own writes come back through its watches.

The event loop is alive if it answers at all. The watch streams are alive if they show the operator's own writes: every status write changes
a watched object, so the new resource version must return as an event. A stream that is open but silent, as behind some load balancers,
is found by a write that does not return. Resource versions grow within a collection, so a later version counts, too."""

from __future__ import annotations

from collections.abc import Callable

from halcyon_operator.model.keys import RunKey
from halcyon_operator.model.untrusted import integer

STUCK_SECONDS = 180.0


class WatchEcho:
    """Waits until the watch shows the operator's own writes.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._awaited: dict[RunKey, tuple[int, float]] = {}
        self._seen: dict[RunKey, int] = {}

    def wrote(self, key: RunKey, resource_version: object) -> None:
        """The operator wrote an object, which now has this resource version. The watch may have shown it before the answer arrived."""
        version = integer(resource_version)
        if version is not None and version > self._seen.get(key, 0):
            since = self._awaited[key][1] if key in self._awaited else self._clock()
            self._awaited[key] = (version, since)

    def saw(self, key: RunKey, resource_version: object) -> bool:
        """The watch showed an object at a resource version.

        Returns:
            Whether it is the operator's own write, so that it brings nothing new.
        """
        version = integer(resource_version)
        self._seen[key] = max(version or 0, self._seen.get(key, 0))
        awaited = self._awaited.get(key)
        if awaited is None or version is None or version < awaited[0]:
            return False
        del self._awaited[key]
        return version == awaited[0]

    def gone(self, key: RunKey) -> None:
        """The object does not exist any more."""
        self._awaited.pop(key, None)
        self._seen.pop(key, None)

    @property
    def lag_seconds(self) -> float:
        """Age of the oldest write that has not come back."""
        now = self._clock()
        awaited = list(self._awaited.values())  # a scrape asks from a thread of its own
        return max((now - since for _, since in awaited), default=0.0)

    @property
    def stuck(self) -> bool:
        """Whether a write is overdue, so that the watch must be dead."""
        return self.lag_seconds > STUCK_SECONDS
