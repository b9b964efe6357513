"""Everything that the operator reads from the cluster and writes to it, and so the list of its rights.

Lists are read from the API server, never from the watch cache. ConfigMaps and JobSets are only created and deleted: the
objects of an attempt never change. A create fails if the name exists, so the operator never takes over an object of
another owner."""

import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any, TypeVar

from halcyon_api import names
from halcyon_api.defaults.resource import PLURAL as DEFAULTS
from halcyon_api.training_run import API_VERSION, PLURAL
from halcyon_operator.kube import client
from halcyon_operator.model.decision import Deletion, Event, Manifest
from halcyon_operator.model.untrusted import integer, mapping, sequence, text, value_at
from halcyon_operator.model.views import ObjectKey, RunView, WatchedKind
from halcyon_operator.objects.jobset import JOBSET_API_VERSION
from halcyon_operator.objects.kueue import API_VERSION as KUEUE_API_VERSION
from halcyon_operator.objects.kueue import WORKLOADS

logger = logging.getLogger(__name__)
T = TypeVar("T")
COMPONENT = "halcyon-operator"
PAGE = 500
POD_PAGE = 100
"""Pods per page: a pod has about ten kilobytes, and decoding blocks the event loop."""
EVENT_PAGE = 100
MAX_NOTE = 1000
_APIS = {
    PLURAL: API_VERSION,
    DEFAULTS: API_VERSION,
    "jobsets": JOBSET_API_VERSION,
    WORKLOADS: KUEUE_API_VERSION,
    **dict.fromkeys(("configmaps", "pods", "events"), "v1"),
    "jobs": "batch/v1",
}
"""API of each resource."""
# Before version 0.10 a JobSet has no ``onJobFailureMessagePatterns``. The API server drops the field, the remaining
# rules then match every failed Job, and a trainer that must not be restarted is restarted forever. The schema that the
# API server publishes shows whether the field exists; every account may read it.
OPENAPI = "/openapi/v3/apis/jobset.x-k8s.io/v1alpha2"
FIELD = "onJobFailureMessagePatterns"
INSTALL_JOBSET = "install JobSet v0.10 or later (https://jobset.sigs.k8s.io)"
TOO_OLD = (
    f"the cluster's JobSet does not support failurePolicy.rules.{FIELD}, without which a run that must stop is "
    f"restarted forever; {INSTALL_JOBSET}"
)


class MissingApi(Exception):
    """An API that the operator needs is not installed in the cluster. The message is one sentence for the user."""


class Cluster:
    """The operator's reads and writes in the cluster."""

    def __init__(self, api: client.KubernetesApi) -> None:
        self._api = api

    async def check(self) -> None:
        """Check that the API server serves the resources that the operator needs, and that JobSet supports the rules of
        an attempt.

        Raises:
            MissingApi: A resource is missing, or JobSet is too old.
        """
        for api_version, plural, install in (
            (API_VERSION, PLURAL, "install the chart's custom resource definition"),
            (JOBSET_API_VERSION, "jobsets", INSTALL_JOBSET),
        ):
            try:
                found = await self._api.request("GET", f"/apis/{api_version}", "discovery")
            except client.NotFound:
                found = {}
            if plural not in (value_at(resource, "name") for resource in sequence(found.get("resources"))):
                raise MissingApi(f"the cluster does not serve {plural} of {api_version}; {install}")
        try:
            known = knows_the_rules(await self._api.request("GET", OPENAPI, "discovery"))
        except client.ApiError as error:
            if error.code not in (403, 404):
                raise
            known = None
        if known is False:
            raise MissingApi(TOO_OLD)
        if known is None:
            logger.warning(
                "the API server does not describe JobSets; a JobSet API without %s rejects every attempt", FIELD
            )

    async def run(self, namespace: str, name: str) -> Manifest | None:
        """A TrainingRun; None if it does not exist."""
        return await self._get(PLURAL, namespace, name)

    async def defaults(self, namespace: str, name: str) -> Manifest | None:
        """A TrainingRunDefaults; None if it, or its kind, does not exist."""
        return await self._get(DEFAULTS, namespace, name)

    async def serves(self, namespace: str) -> bool:
        """Whether the operator may list the runs of a namespace. A deleted namespace has no role binding any more."""
        try:
            await self._ask("GET", PLURAL, namespace, query={"limit": "1"}, accept=client.METADATA_ONLY)
        except client.ApiError as error:
            if error.code in (403, 404):
                return False
            raise
        return True

    async def versions(self, kind: WatchedKind, namespace: str | None) -> list[tuple[ObjectKey, int]]:
        """Every watched object of a kind, and its resource version."""
        selector = "" if kind == "trainingruns" else names.LABEL_RUN
        return [
            (
                (kind, text(value_at(item, "metadata", "namespace")), text(value_at(item, "metadata", "name"))),
                integer(value_at(item, "metadata", "resourceVersion")) or 0,
            )
            async for page in self._pages(kind, namespace, selector, PAGE, client.METADATA_ONLY)
            for item in page
        ]

    async def jobsets(self, namespace: str, run: str) -> tuple[object, ...]:
        """JobSets with a run's label."""
        pages = self._pages("jobsets", namespace, _of_run(run), PAGE)
        return tuple([jobset async for page in pages for jobset in page])

    async def pods(self, namespace: str, run: str, parse: Callable[[object], T]) -> tuple[T, ...]:
        """Pods with a run's label.

        Each is parsed at once, so that only one page of documents is in memory at a time.
        """
        pages = self._pages("pods", namespace, _of_run(run), POD_PAGE)
        return tuple([parse(document) async for page in pages for document in page])

    async def jobset(self, namespace: str, name: str) -> Manifest | None:
        """A JobSet by name."""
        return await self._get("jobsets", namespace, name)

    async def config_map(self, namespace: str, name: str) -> Manifest | None:
        """A ConfigMap by name."""
        return await self._get("configmaps", namespace, name)

    async def workloads(self, namespace: str, selector: str) -> tuple[object, ...]:
        """Kueue's Workloads with a label.

        Raises:
            NotFound: The cluster does not serve Workloads.
        """
        found = await self._ask("GET", WORKLOADS, namespace, query={"labelSelector": selector})
        return sequence(found.get("items"))

    async def patch_workload(self, namespace: str, name: str, metadata: Manifest) -> None:
        """Change metadata of a Workload.

        Raises:
            NotFound: It does not exist.
        """
        await self._ask(
            "PATCH", WORKLOADS, namespace, name, body={"metadata": metadata}, content_type=client.MERGE_PATCH
        )

    async def job_uid(self, namespace: str, name: str) -> str:
        """The uid of a Job; empty if it does not exist, or is being deleted."""
        metadata = value_at(await self._get("jobs", namespace, name), "metadata")
        return "" if value_at(metadata, "deletionTimestamp") else text(value_at(metadata, "uid"))

    async def warnings(self, namespace: str, uid: str) -> tuple[object, ...]:
        """Events of type Warning about an object, at most `EVENT_PAGE`, in no particular order.

        Raises:
            ApiError: The operator may not list them, or the API server did not answer.
        """
        query = {"fieldSelector": f"involvedObject.uid={uid},type=Warning", "limit": str(EVENT_PAGE)}
        return sequence((await self._ask("GET", "events", namespace, query=query)).get("items"))

    async def create(self, manifest: Manifest) -> None:
        """Create an object.

        Raises:
            Conflict: An object of this name exists.
        """
        plural, namespace = _plural(manifest["kind"]), manifest["metadata"]["namespace"]
        await self._ask("POST", plural, namespace, query={"fieldManager": names.FIELD_MANAGER}, body=manifest)

    async def delete(self, namespace: str, deletion: Deletion) -> None:
        """Delete an object after all objects that it owns.

        Does nothing if the object does not exist, was replaced or was changed.
        """
        unchanged = {"resourceVersion": deletion.resource_version} if deletion.resource_version else {}
        # A foreground deletion would only keep the name longer: a pod owns nothing, and the pods of a Job have ended.
        policy = "Background" if deletion.kind in ("Pod", "Job") else "Foreground"
        at_once = {"gracePeriodSeconds": 0} if deletion.force else {}
        options = {"propagationPolicy": policy, "preconditions": {"uid": deletion.uid, **unchanged}, **at_once}
        try:
            await self._ask("DELETE", _plural(deletion.kind), namespace, deletion.name, body=options)
        except (client.NotFound, client.Conflict):
            return
        except client.ApiError as error:
            # The pod is then replaced by the Job itself, ten seconds later.
            if deletion.kind != "Job" or not 400 <= error.code < 500:
                raise
            logger.debug("%s/%s is not deleted: %s", namespace, deletion.name, error)

    async def write_status(self, run: RunView, status: Manifest) -> Manifest:
        """Write a run's status, if the run still has the observed resource version.

        Returns:
            The run after the write.

        Raises:
            Conflict: The run was changed after it was observed.
        """
        body = {
            "metadata": {"resourceVersion": run.resource_version},
            "status": client.merge_patch(run.raw_status, status),
        }
        path = client.path_of(API_VERSION, PLURAL, run.namespace, run.name, "status")
        query = {"fieldManager": names.FIELD_MANAGER}
        return await self._api.request(
            "PATCH", path, f"{PLURAL}/status", query=query, body=body, content_type=client.MERGE_PATCH
        )

    async def post(self, run: RunView, event: Event, instance: str, now: datetime) -> None:
        """Create an event about a run.

        An error is ignored: the event already exists, or the API server rejects events.
        """
        body = event_manifest(run, event, instance, now)
        try:
            await self._api.request(
                "POST", client.path_of("events.k8s.io/v1", "events", run.namespace), "events", body=body
            )
        except client.ApiError:
            return

    async def _ask(
        self, method: str, plural: str, namespace: str | None, name: str | None = None, **options: Any
    ) -> Manifest:
        return await self._api.request(
            method, client.path_of(_APIS[plural], plural, namespace, name), plural, **options
        )

    async def _get(self, plural: str, namespace: str, name: str) -> Manifest | None:
        try:
            return await self._ask("GET", plural, namespace, name)
        except client.NotFound:
            return None

    async def _pages(
        self, plural: str, namespace: str | None, selector: str, size: int, accept: str = "application/json"
    ) -> AsyncIterator[tuple[object, ...]]:
        """The objects with some labels, page by page."""
        query = {"limit": str(size)}
        if selector:
            query["labelSelector"] = selector
        while True:
            page = await self._ask("GET", plural, namespace, query=query, accept=accept)
            if "items" not in page:  # an empty list has them too
                raise client.ApiError(0, "Unreadable", f"the API server's list of {plural} has no items")
            yield sequence(page["items"])
            token = value_at(page, "metadata", "continue")
            if not isinstance(token, str) or not token:
                return
            query["continue"] = token


def _plural(kind: str) -> str:
    return f"{kind.lower()}s"


def _of_run(run: str) -> str:
    return f"{names.LABEL_RUN}={run}"


def event_name(run: RunView, event: Event) -> str:
    """The name of an event: the same for the same key, so that the event exists only once."""
    digest = hashlib.sha256(f"{run.uid}/{event.key}".encode()).hexdigest()[:16]
    return f"{run.name}.{digest}"


def event_manifest(run: RunView, event: Event, instance: str, now: datetime) -> Manifest:
    """The manifest of an event."""
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": event_name(run, event), "namespace": run.namespace},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": f"halcyon.dev/{COMPONENT}",
        "reportingInstance": instance[:128],
        "action": "Reconcile",
        "reason": event.reason[:128],
        "type": event.type,
        "note": text(event.message, MAX_NOTE),
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": "TrainingRun",
            "namespace": run.namespace,
            "name": run.name,
            "uid": run.uid,
        },
    }


def knows_the_rules(openapi: object) -> bool | None:
    """Whether the JobSet of an OpenAPI document has the field; None if the document does not describe JobSets."""
    for schema in mapping(value_at(openapi, "components", "schemas")).values():
        rule = value_at(schema, "properties", "spec", "properties", "failurePolicy", "properties", "rules", "items")
        if fields := mapping(value_at(rule, "properties")):
            return FIELD in fields
    return None


def create_refusal(kind: str, message: str) -> str:
    """Why the API server rejected an object, as one sentence for the user.

    Args:
        kind: Kind of the object.
        message: The API server's message.
    """
    if kind == "JobSet" and "unknown field" in message:
        return (
            f"JobSet was refused, because the cluster's JobSet does not support all of its fields; {INSTALL_JOBSET}: "
            f"{text(message, 500)}"
        )
    return f"{kind} was refused: {message}"
