"""Reads the Workloads of JobSets that wait in Kueue queues.

Workloads have no label of a run, so a watch would return all Workloads of the cluster. An admission or eviction is
visible in the JobSet, which is watched; the reason for waiting is read at intervals, and only while the JobSet
waits."""

import contextlib
from collections.abc import Callable

from halcyon_operator.kube.client import ApiError, NotFound
from halcyon_operator.kube.cluster import Cluster
from halcyon_operator.model import workload
from halcyon_operator.model.decision import Boost
from halcyon_operator.model.recent import Recent
from halcyon_operator.model.untrusted import conditions_of, holds, mapping, mappings, moment, text, value_at
from halcyon_operator.model.views import RunView
from halcyon_operator.objects.jobset import metadata_of
from halcyon_operator.objects.kueue import ANNOTATION_GENERATION, LABEL_JOB_UID, LABEL_ORIGIN, PRIORITY_BOOST

MAX_REMEMBERED = 4096
MAX_WORD = 316


class Workloads:
    """Workloads, by the uid of their JobSet or run.

    Args:
        cluster: Reads Workloads.
        clock: Seconds, monotonic.
    """

    def __init__(self, cluster: Cluster, clock: Callable[[], float]) -> None:
        self._cluster = cluster
        self._clock = clock
        self._known: Recent[str, tuple[float, workload.WorkloadReading]] = Recent(MAX_REMEMBERED)

    async def read(self, namespace: str, jobset_uid: str, max_age_seconds: float) -> workload.WorkloadReading:
        """The Workload of a JobSet, or of a run that trains on another cluster.

        Args:
            namespace: Namespace of the JobSet.
            jobset_uid: Uid of the JobSet.
            max_age_seconds: Longest age of a reading.

        Raises:
            ApiError: The API server did not answer.
        """
        known, now = self._known.get(jobset_uid), self._clock()
        if known is not None and now - known[0] < max_age_seconds:
            return known[1]
        reading = await self._ask(namespace, jobset_uid)
        self._known[jobset_uid] = now, reading
        return reading

    async def boost(self, namespace: str, boost: Boost) -> None:
        """Change the priority of a Workload, if it still exists."""
        self._known.pop(boost.jobset_uid, None)
        with contextlib.suppress(NotFound):
            await self._cluster.patch_workload(
                namespace, boost.workload, {"annotations": {PRIORITY_BOOST: boost.value}}
            )

    async def adopt(self, run: RunView) -> None:
        """Make a run that MultiKueue has made the owner of its Workload, so that MultiKueue deletes both.

        Raises:
            NotFound: MultiKueue has made no such Workload.
        """
        found = await self._cluster.workloads(run.namespace, LABEL_ORIGIN)
        if run.workload not in (value_at(one, "metadata", "name") for one in found):
            raise NotFound(404, "NotFound", f"MultiKueue has made no Workload {run.workload}")
        owners = metadata_of(run, run.workload, {})["ownerReferences"]
        await self._cluster.patch_workload(run.namespace, run.workload, {"ownerReferences": owners})

    async def _ask(self, namespace: str, jobset_uid: str) -> workload.WorkloadReading:
        try:
            return newest(await self._cluster.workloads(namespace, f"{LABEL_JOB_UID}={jobset_uid}"))
        except NotFound:
            return workload.NoKueue()
        except ApiError as error:
            if error.code != 403:
                raise
            return workload.WorkloadUnread("the API server does not allow it; set kueue.enabled in the chart")


def parse_workload(document: object) -> workload.WorkloadView:
    """The view of a Workload. Never raises."""
    status = mapping(value_at(document, "status"))
    conditions = conditions_of(status)
    reserved, evicted, finished = (conditions.get(kind, {}) for kind in ("QuotaReserved", "Evicted", "Finished"))
    return workload.WorkloadView(
        name=text(value_at(document, "metadata", "name")),
        uid=text(value_at(document, "metadata", "uid")),
        generation=text(value_at(document, "metadata", "annotations", ANNOTATION_GENERATION)),
        active=value_at(document, "spec", "active") is not False,
        cluster_queue=text(value_at(status, "admission", "clusterQueue"), MAX_WORD),
        unreserved=None if holds(reserved) else _parsed_condition(reserved),
        admitted=holds(conditions.get("Admitted", {})),
        evicted=_parsed_condition(evicted) if holds(evicted) else None,
        finished=_parsed_condition(finished) if holds(finished) else None,
        checks=tuple(
            workload.AdmissionCheck(
                text(check.get("name"), MAX_WORD), text(check.get("state")), text(check.get("message"))
            )
            for check in mappings(status.get("admissionChecks"))
        ),
        requeue_at=moment(value_at(status, "requeueState", "requeueAt")),
        boost=text(value_at(document, "metadata", "annotations", PRIORITY_BOOST)) or "0",
    )


def newest(documents: tuple[object, ...]) -> workload.WorkloadView | workload.NoWorkload:
    """The newest Workload of a JobSet. A second one may exist for a moment while it is being deleted."""
    found = [one for one in documents if value_at(one, "metadata", "deletionTimestamp") is None]
    found.sort(key=lambda one: text(value_at(one, "metadata", "creationTimestamp")))
    return parse_workload(found[-1]) if found else workload.NoWorkload()


def _parsed_condition(condition: dict[str, object]) -> workload.WorkloadCondition:
    return workload.WorkloadCondition(
        text(condition.get("reason"), MAX_WORD),
        text(condition.get("message"), 1024),
        moment(condition.get("lastTransitionTime")),
    )
