"""Checks one operator process: lists all objects at intervals, and decides whether the process is healthy.

Each list has two uses. The watches must have shown every object in it (`watch_audit`). And all its runs are reconciled,
even without an event, together with the runs that only the watches have shown: the event about their deletion may have
been lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from halcyon_operator.kube.client import ApiError
from halcyon_operator.kube.cluster import Cluster
from halcyon_operator.model.views import ObjectKey, RunKey, WatchedKind
from halcyon_operator.run.health import STUCK_SECONDS, WriteWatch
from halcyon_operator.run.watch_audit import WatchAudit

logger = logging.getLogger(__name__)

KINDS: tuple[WatchedKind, ...] = ("trainingruns", "jobsets", "pods")
WARM_SECONDS = 0.1
FIRST_LIST_SECONDS = 5.0
"""Seconds until the list is read again if the watches have not shown all of it, because objects may be deleted
meanwhile.
"""


class Supervision:
    """Lists all objects at intervals while the process runs.

    Args:
        cluster: Lists the objects.
        namespaces: The namespaces served; empty: all.
        audit: Compares the list with what the watches have shown.
        known: The runs that the watches have shown.
        check: Called with the runs of a list, and the seconds until the next one.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespaces: tuple[str, ...],
        audit: WatchAudit,
        known: Callable[[], Iterable[RunKey]],
        check: Callable[[Iterable[RunKey], float], None],
    ) -> None:
        self._cluster = cluster
        self._namespaces = namespaces
        self._audit = audit
        self._known = known
        self._check = check

    async def run(self, warm: asyncio.Event, interval_seconds: float) -> None:
        """Set `warm` when the watches have shown all objects, then continue to compare."""
        while not warm.is_set():
            await self._list()
            for _ in range(round(FIRST_LIST_SECONDS / WARM_SECONDS)):
                if self._audit.complete:
                    warm.set()
                    break
                await asyncio.sleep(WARM_SECONDS)
        while True:
            await asyncio.sleep(interval_seconds)
            present = await self._list()
            self._check({key[1:] for key in present if key[0] == "trainingruns"} | set(self._known()), interval_seconds)

    async def _list(self) -> list[ObjectKey]:
        """All objects; empty if the API server does not answer."""
        present: list[tuple[ObjectKey, int]] = []
        try:
            for namespace in self._namespaces or (None,):
                for kind in KINDS:
                    present += await self._cluster.versions(kind, namespace)
        except ApiError as error:
            logger.warning("cannot list the objects: %s", error)
            return []
        except Exception:
            logger.exception("cannot list the objects")
            return []
        self._audit.listed(present)
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
