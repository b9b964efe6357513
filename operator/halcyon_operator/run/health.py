"""Whether what the operator writes comes back through its watches.

Its event loop is alive when it answers at all. Its watch streams are alive when they bring back what it wrote itself: every status write
changes an object that it watches, so the new resource version must come back as an event. A stream that lies open and silent, as happens
behind load balancers, shows by an echo that stays away. Resource versions grow within a collection, so a later one will do.
"""

from __future__ import annotations

from collections.abc import Callable

from halcyon_operator.model.keys import RunKey
from halcyon_operator.model.untrusted import integer

STUCK_SECONDS = 180.0


class WatchEcho:
    """Waits for the operator's own writes to come back through the watch.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._awaited: dict[RunKey, tuple[int, float]] = {}
        self._seen: dict[RunKey, int] = {}

    def wrote(self, key: RunKey, resource_version: object) -> None:
        """The operator wrote an object, which has this resource version now. The watch may have shown it before the answer was here."""
        version = integer(resource_version)
        if version is not None and version > self._seen.get(key, 0):
            since = self._awaited[key][1] if key in self._awaited else self._clock()
            self._awaited[key] = (version, since)

    def saw(self, key: RunKey, resource_version: object) -> bool:
        """The watch showed an object at a resource version.

        Returns:
            Whether it is just what the operator wrote, so that there is nothing new in it.
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
        """Whether a write has stayed away for so long that the watch must be dead."""
        return self.lag_seconds > STUCK_SECONDS
