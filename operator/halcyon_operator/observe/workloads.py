"""Reads what Kueue says of JobSets that wait in its queues.

Workloads bear no label of a run, so watching them would bring those of everybody. That one is admitted or evicted shows in its JobSet,
which is watched; what it waits for is read now and then, and only as long as it waits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from halcyon_operator.kube.cluster import Cluster
from halcyon_operator.objects.kueue import WorkloadReading

MAX_REMEMBERED = 4096


class Workloads:
    """Workloads of JobSets, by the JobSet's uid.

    Args:
        cluster: Where they are read.
        clock: Seconds, monotonic.
    """

    def __init__(self, cluster: Cluster, clock: Callable[[], float]) -> None:
        self._cluster = cluster
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, WorkloadReading]] = OrderedDict()

    async def read(self, namespace: str, jobset_uid: str, max_age_seconds: float) -> WorkloadReading:
        """What Kueue says of a JobSet.

        Args:
            namespace: The JobSet's.
            jobset_uid: The JobSet's.
            max_age_seconds: How old it may be.

        Raises:
            ApiError: The API server did not answer.
        """
        known, now = self._known.get(jobset_uid), self._clock()
        if known is not None and now - known[0] < max_age_seconds:
            return known[1]
        reading = await self._cluster.workload(namespace, jobset_uid)
        self._known[jobset_uid] = now, reading
        self._known.move_to_end(jobset_uid)
        while len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return reading
