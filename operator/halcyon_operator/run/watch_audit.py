"""Whether the watches show what there is: at the start, before this process may call itself ready, and every few minutes after that.

A list of names and versions is taken from the API server, and everything in it must come by in the watches, at that version or a later
one. So an operator that stands by and writes nothing notices a dead watch too, and in a cluster where nothing happens. An object that is
gone meanwhile is not waited for: the next list does not have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from halcyon_operator.model.keys import ObjectKey


class WatchAudit:
    """Compares what is with what was seen.

    Args:
        seen: The version at which an object was seen last, None if never.
        clock: Seconds, monotonic.
    """

    def __init__(self, seen: Callable[[ObjectKey], int | None], clock: Callable[[], float]) -> None:
        self._seen = seen
        self._clock = clock
        self._awaited: dict[ObjectKey, tuple[int, float]] = {}
        self._listed = False

    def listed(self, present: Iterable[tuple[ObjectKey, int]]) -> None:
        """The API server has these objects at these versions."""
        now = self._clock()
        before, self._listed = self._awaited, True
        # A version that is waited for since the last list stays the one waited for: who runs behind for ever is late, too.
        self._awaited = {key: before.get(key, (version, now)) for key, version in present}
        self._prune()

    @property
    def complete(self) -> bool:
        """Whether everything that was listed has been seen."""
        self._prune()
        return self._listed and not self._awaited

    @property
    def lag_seconds(self) -> float:
        """For how long the oldest object has been waited for."""
        self._prune()
        now = self._clock()
        return max((now - since for _, since in self._awaited.values()), default=0.0)

    def _prune(self) -> None:
        shown = [key for key, (version, _) in self._awaited.items() if (self._seen(key) or 0) >= version]
        for key in shown:
            del self._awaited[key]
