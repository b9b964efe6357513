"""Checks that this process works: that the watches show what exists, and that reconciles end.

The event loop works if it answers at all. The watch streams work if they show

- the operator's own writes (`WriteWatch`): every status write changes a watched object, so the new resource version
  must come back as an event. A stream that is open but silent, for example behind a load balancer, is detected by a
  write that does not come back. Resource versions increase within a collection, so a later version counts too;
- all objects (`WatchAudit`), at the start, before this process is ready, and every few minutes after that. A list of
  names and versions is read from the API server, and the watches must show every object in it at that version or a
  later one. So a standby operator, which writes nothing, also detects a broken watch, even in a quiet cluster. A
  deleted object is not expected any more once the next list does not have it.

`Supervision` makes these lists. All their runs are reconciled too, even without an event, together with the runs that
only the watches have shown: the event about their deletion may have been lost.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from halcyon_operator.kube.client import ApiError
from halcyon_operator.kube.cluster import Cluster
from halcyon_operator.model.untrusted import integer
from halcyon_operator.model.views import ObjectKey, RunKey, WatchedKind

STUCK_SECONDS = 180.0
logger = logging.getLogger(__name__)
KINDS: tuple[WatchedKind, ...] = ("trainingruns", "jobsets", "pods")
WARM_SECONDS = 0.1
FIRST_LIST_SECONDS = 5.0
"""Seconds until the list is read again if the watches have not shown all of it, because objects may be deleted
meanwhile.
"""


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


@dataclass(eq=False)
class Supervision:
    """Lists all objects at intervals while the process runs.

    Args:
        cluster: Lists the objects.
        namespaces: The namespaces served; empty: all.
        audit: Compares the list with what the watches have shown.
        known: The runs that the watches have shown.
        check: Called with the runs of a list, and the seconds until the next one.
    """

    cluster: Cluster
    namespaces: tuple[str, ...]
    audit: WatchAudit
    known: Callable[[], Iterable[RunKey]]
    check: Callable[[Iterable[RunKey], float], None]

    async def run(self, warm: asyncio.Event, interval_seconds: float) -> None:
        """Set `warm` when the watches have shown all objects, then continue to compare."""
        while not warm.is_set():
            await self._list()
            for _ in range(round(FIRST_LIST_SECONDS / WARM_SECONDS)):
                if self.audit.complete:
                    warm.set()
                    break
                await asyncio.sleep(WARM_SECONDS)
        while True:
            await asyncio.sleep(interval_seconds)
            present = await self._list()
            self.check({key[1:] for key in present if key[0] == "trainingruns"} | set(self.known()), interval_seconds)

    async def _list(self) -> list[ObjectKey]:
        """All objects; empty if the API server does not answer."""
        present: list[tuple[ObjectKey, int]] = []
        try:
            for namespace in self.namespaces or (None,):
                for kind in KINDS:
                    present += await self.cluster.versions(kind, namespace)
        except ApiError as error:
            logger.warning("cannot list the objects: %s", error)
            return []
        except Exception:
            logger.exception("cannot list the objects")
            return []
        self.audit.listed(present)
        return [key for key, _ in present]


def health_problem(echo: WriteWatch, audit: WatchAudit, longest_reconcile_seconds: float) -> str:
    """Why this process must be restarted; empty: it is healthy. Any answer shows that its event loop runs."""
    if echo.stuck:
        return "the watch streams do not show the operator's own writes"
    if audit.lag_seconds > STUCK_SECONDS:
        return "the watch streams do not show objects that exist"
    if longest_reconcile_seconds > STUCK_SECONDS:
        return "the reconcile of a run does not end"
    return ""
