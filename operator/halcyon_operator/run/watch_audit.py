"""Checks that the watches show all objects: at the start, before this process is ready, and every few minutes after
that.

A list of names and versions is read from the API server, and the watches must show every object in it at that version
or a later one. So a standby operator, which writes nothing, also detects a broken watch, even in a quiet cluster. A
deleted object is not expected any more once the next list does not have it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from halcyon_operator.model.views import ObjectKey


class WatchAudit:
    """Compares listed objects with watched ones.

    Args:
        seen: The version at which an object was last seen; None if never.
        clock: Seconds, monotonic.
    """

    def __init__(self, seen: Callable[[ObjectKey], int | None], clock: Callable[[], float]) -> None:
        self._seen = seen
        self._clock = clock
        self._expected: dict[ObjectKey, tuple[int, float]] = {}
        self._listed = False

    def listed(self, present: Iterable[tuple[ObjectKey, int]]) -> None:
        """Record the objects of the API server, with their versions."""
        now = self._clock()
        before, self._listed = self._expected, True
        # A version that was missing at the last list stays expected, so that a watch that always lags counts as late.
        self._expected = {key: before.get(key, (version, now)) for key, version in present}
        self._prune()

    @property
    def complete(self) -> bool:
        """Whether the watches have shown all listed objects."""
        self._prune()
        return self._listed and not self._expected

    @property
    def lag_seconds(self) -> float:
        """Age of the oldest object that the watches have not shown."""
        self._prune()
        now = self._clock()
        return max((now - since for _, since in self._expected.values()), default=0.0)

    def _prune(self) -> None:
        shown = [key for key, (version, _) in self._expected.items() if (self._seen(key) or 0) >= version]
        for key in shown:
            del self._expected[key]
