"""Whatever objects are in the cluster, the operator touches only what belongs to the run that it reconciles.

Tested once for the decisions (the objects that a decision names) and once with I/O (every request to the API server),
with damaged objects and with objects that only look like the run's own: with a foreign owner, a foreign name or forged
labels.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st

from halcyon_api import names
from halcyon_api.defaults.resource import PLURAL as DEFAULTS
from halcyon_api.training_run import API_VERSION, PLURAL
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.kube.client import ApiError, Conflict, NotFound
from halcyon_operator.kube.cluster import Cluster
from halcyon_operator.model.decision import Decision, Deletion, SaveAsk
from halcyon_operator.model.untrusted import mapping, text, value_at
from halcyon_operator.model.views import Observed, PodView, ProbeView
from halcyon_operator.objects.jobset import build
from halcyon_operator.objects.kueue import LABEL_QUEUE, WORKLOADS
from halcyon_operator.observe.jobsets import controller_uid, parse_jobset, parse_object
from halcyon_operator.observe.memory import PodEndings
from halcyon_operator.observe.node_notices import NodeNotices
from halcyon_operator.observe.observer import Observer
from halcyon_operator.observe.pods import parse_pod
from halcyon_operator.observe.trainers import ReportReading, parse_report
from halcyon_operator.observe.workloads import Workloads
from halcyon_operator.run.controller import Controller
from halcyon_operator.run.health import WriteWatch
from halcyon_operator.run.metrics import Metrics
from halcyon_operator.run.work_queue import WorkQueue
from tests.examples_tried import holds_for, tried_with
from tests.operator.builders import UID, at, defaults, jobset, pod, report, run, settings_of
from tests.operator.hostile import (
    HEADS,
    JUNK,
    LATER_STATUS,
    NODE,
    PODS,
    PROGRESS,
    STATUS,
    WORKLOAD,
    foreign_objects,
    observations,
    run_documents,
    spoil,
)
from tests.operator.simulation import _merged

OWN_NAME = re.compile(r"demo-(\d{1,5}|probe|plan|g[0-9a-f]{7})")


def is_own(manifest: dict[str, Any], uid: str) -> bool:
    """Whether an object to create belongs to this run and to no other."""
    metadata = manifest["metadata"]
    (owner,) = metadata["ownerReferences"]
    named = OWN_NAME.fullmatch(metadata["name"]) is not None and metadata["namespace"] == "default"
    return (
        named
        and owner["controller"] is True
        and (owner["kind"], owner["name"], owner["uid"]) == ("TrainingRun", "demo", uid)
    )


def is_confined(manifest: dict[str, Any]) -> bool:
    """Whether the pods of an object get nothing of their node and no access to the API server."""
    if manifest["kind"] != "JobSet":
        return True
    pods = [job["template"]["spec"]["template"]["spec"] for job in manifest["spec"]["replicatedJobs"]]
    safe = all(pod["automountServiceAccountToken"] is False and pod["securityContext"]["runAsNonRoot"] for pod in pods)
    open_doors = {"hostNetwork", "hostPID", "hostIPC", "initContainers"}
    if manifest["metadata"]["labels"].get(names.LABEL_ROLE) != names.ROLE_GUARD:
        open_doors.add("nodeName")
    return safe and not any(
        open_doors & set(pod) or any("hostPath" in volume for volume in pod.get("volumes", [])) for pod in pods
    )


def jobset_lists() -> st.SearchStrategy[list[dict[str, Any]]]:
    """Any number of look-alikes with different uids, as in a real cluster."""
    return st.lists(foreign_objects(), max_size=3, unique_by=lambda jobset: str(value_at(jobset, "metadata", "uid")))


def check(decision: Decision, seen: Observed) -> None:
    """A decision names only the run's own objects."""
    uid = seen.run.uid
    probes = () if seen.probe is None else (seen.probe.jobset,)
    planners = () if seen.planner is None else (seen.planner.jobset,)
    guards = [guard.jobset for guard in seen.guards]
    found = {(jobset.name, jobset.uid): jobset.owner_uid for jobset in (*probes, *guards, *planners, *seen.jobsets)}
    maps = (
        {(seen.config_map.name, seen.config_map.uid): seen.config_map.owner_uid} if seen.config_map is not None else {}
    )
    for deletion in decision.delete:
        if deletion.kind == "TrainingRun":
            assert (deletion.name, deletion.uid, deletion.resource_version) == (
                seen.run.name,
                uid,
                seen.run.resource_version,
            )
            assert seen.run.spec is not None
            assert seen.run.spec.ttl_seconds_after_finished is not None
            continue
        if deletion.kind == "Pod":
            (pod,) = [pod for pod in seen.pods if (pod.name, pod.uid) == (deletion.name, deletion.uid)]
            assert (pod.run_uid, pod.controlled) == (uid, True)
            assert pod.jobset_uid in {jobset.uid for jobset in seen.jobsets if jobset.owner_uid == uid}
            placement = decision.status.placement if decision.status is not None else None
            avoided = {node.node for node in placement.avoided} if placement is not None else ()
            assert pod.node in avoided or any(other.deleting and other.group == pod.group for other in seen.pods)
            continue
        if deletion.kind == "Job":
            check_job(deletion, seen)
            continue
        owner = (found if deletion.kind == "JobSet" else maps)[deletion.name, deletion.uid]
        assert owner == uid != ""
        assert OWN_NAME.fullmatch(deletion.name)
    for manifest in map(build, decision.create):
        assert is_own(manifest, uid)
        assert is_confined(manifest)
    assert {ask.ip for ask in decision.asks} <= {pod.ip for pod in seen.pods}


@pytest.mark.slow
@tried_with(60, 300)
def test_a_decision_names_only_objects_of_the_run(examples: int) -> None:
    holds_for(examples, check_a_decision_names_only_objects_of_the_run, st.data())


def check_a_decision_names_only_objects_of_the_run(data: st.DataObject) -> None:
    probe = None
    if data.draw(st.booleans()):
        probe = ProbeView(parse_jobset(data.draw(foreign_objects())), (parse_pod(data.draw(st.sampled_from(PODS))),))
    document = data.draw(run_documents())
    seen = observations(
        data,
        document,
        jobsets=tuple(map(parse_jobset, data.draw(jobset_lists()))),
        probe=probe,
        config_map=parse_object("ConfigMap", data.draw(foreign_objects("ConfigMap")))
        if data.draw(st.booleans())
        else None,
    )
    if seen.probe is not None and any(seen.probe.jobset.uid == jobset.uid for jobset in seen.jobsets):
        seen = replace(seen, probe=None)
    check(reconcile(seen, at(data.draw(st.sampled_from([0, 60, 10**6])))), seen)


def check_job(job: Deletion, seen: Observed) -> None:
    """The Job has a failed pod of the run."""
    assert job.uid
    assert OWN_NAME.fullmatch(job.name.rpartition("-s-")[0])
    assert any(pod.run_uid == seen.run.uid and pod.job_uid == job.uid and pod.phase == "Failed" for pod in seen.pods)


class HostileApi:
    """Answers reads with the given objects and writes with random results, and records all requests."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data
        self.run = self._spoiled(data.draw(run_documents()))
        # An object that is read by its address has that name, and every stored object has a uid.
        identity = {"name": "demo", "namespace": "default", "uid": UID}
        self.run = mapping(self.run) | {"metadata": mapping(value_at(self.run, "metadata")) | identity}
        self.jobsets = [self._spoiled(one) for one in data.draw(jobset_lists())]
        self.pods = [self._spoiled(one) for one in data.draw(st.lists(st.sampled_from(PODS), max_size=2))]
        self.workloads = [self._spoiled(WORKLOAD) for _ in range(data.draw(st.integers(0, 2)))]
        self.other = spoil(run(STATUS | LATER_STATUS, name="base", after={"run": "demo"}), data)
        self.named = {
            "jobsets": self._spoiled(data.draw(foreign_objects())),
            "configmaps": self._spoiled(data.draw(foreign_objects("ConfigMap"))),
        }
        self.requests: list[tuple[str, str, Any]] = []

    def _spoiled(self, document: dict[str, Any]) -> Any:
        return document if self._data.draw(st.booleans()) else spoil(document, self._data)

    def owned(self) -> set[tuple[object, object]]:
        """Name and uid of all objects that the run controls."""
        own = [
            thing
            for thing in [*self.jobsets, *self.named.values()]
            if controller_uid(mapping(value_at(thing, "metadata"))) == UID
        ]
        own += [pod for pod in self.pods if controller_uid(mapping(value_at(pod, "metadata"))) and self._labelled(pod)]
        return {(text(value_at(thing, "metadata", "name")), text(value_at(thing, "metadata", "uid"))) for thing in own}

    @staticmethod
    def _labelled(pod: Any) -> bool:
        return value_at(pod, "metadata", "labels", names.LABEL_RUN_UID) == UID

    async def request(
        self, method: str, path: str, resource: str, *, query: Any = None, body: Any = None, **_: Any
    ) -> dict[str, Any]:
        self.requests.append((method, path, body))
        if method != "GET":
            return self._write(resource, body)
        if path.endswith(f"/{PLURAL}/demo"):
            return self.run
        if resource == WORKLOADS:
            if (code := self._data.draw(st.sampled_from([200, 200, 200, 403, 404]))) == 200:
                return mapping(
                    self._data.draw(st.sampled_from([{"items": self.workloads}, {"items": self._data.draw(JUNK)}]))
                )
            raise (NotFound if code == 404 else ApiError)(code, "Refused", "because")
        if path.endswith(("/jobsets", "/pods")):
            assert query["labelSelector"] == "halcyon.dev/run=demo"
            return {
                "items": self.jobsets if resource == "jobsets" else self.pods,
                "metadata": {"continue": self._data.draw(st.integers())},
            }
        if self._data.draw(st.booleans()):
            raise NotFound(404, "NotFound", "")
        if resource == PLURAL:
            return mapping(self.other)
        if resource == DEFAULTS:
            return mapping(spoil(defaults(image="x:1"), self._data))
        thing = self.named[resource]
        return thing if isinstance(thing, dict) else {}

    def _write(self, resource: str, body: Any) -> dict[str, Any]:
        outcome = self._data.draw(st.sampled_from([*["done"] * 8, "conflict", "refused"]))
        if outcome == "conflict":
            raise Conflict(409, "Conflict", "changed")
        if outcome == "refused":
            raise ApiError(422, "Invalid", "because")
        if resource == f"{PLURAL}/status":
            self.run["status"] = _merged(mapping(self.run.get("status")), body["status"])
        return mapping(self._data.draw(JUNK))

    # Checkpoint roots and trainers

    async def read(self, *arguments: Any) -> Any:
        """A HEAD if the observer passes no pod, a report if it passes one."""
        group = next((argument.group for argument in arguments if isinstance(argument, PodView)), None)
        if group is None:
            return self._data.draw(st.sampled_from(HEADS))
        reported = report(*group, progress=PROGRESS) if self._data.draw(st.booleans()) else report(*group)
        body = json.dumps(spoil(reported.document(), self._data)).encode()
        return (
            parse_report(body, "demo", group) if self._data.draw(st.booleans()) else ReportReading(problem="x" * 10_000)
        )

    async def send_save_request(self, ask: SaveAsk) -> str:
        assert ask.ip in {text(value_at(pod, "status", "podIP")) for pod in self.pods}
        return "no " * 5_000


@contextmanager
def no_crash() -> Iterator[None]:
    """Check that nothing is logged with a traceback meanwhile."""
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info:
                found.append(logging.Formatter().format(record))

    log, handler = logging.getLogger("halcyon_operator"), Keep()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
    assert not found, found[0]


RUN_PATH = f"/apis/{API_VERSION}/namespaces/default/{PLURAL}/demo"
WRITES = {
    "PATCH": re.compile(re.escape(RUN_PATH) + "/status"),
    "POST": re.compile(
        r"/(apis/jobset\.x-k8s\.io/v1alpha2|api/v1|apis/events\.k8s\.io/v1)/namespaces/default/(jobsets|configmaps|events)"
    ),
    "DELETE": re.compile(
        r"/(apis/jobset\.x-k8s\.io/v1alpha2|apis/batch/v1|api/v1)/namespaces/default/((jobsets|configmaps)/"
        + OWN_NAME.pattern
        + r"|jobs/demo-1-s-[0-9]|pods/demo-1-s-[0-9]-[0-9]-abcde)"
    ),
}


def reconcile_four_times(api: HostileApi, data: st.DataObject) -> None:
    """Reconcile four times with the whole operator."""
    metrics, pod_endings, nodes = Metrics(), PodEndings(), NodeNotices()
    cluster = Cluster(api)  # type: ignore[arg-type]
    settings = settings_of(kueue={"enabled": data.draw(st.booleans())})
    workloads = Workloads(cluster, lambda: 0.0)
    observer = Observer(cluster, api, api, pod_endings, settings, nodes, workloads=workloads)  # type: ignore[arg-type]
    queue: WorkQueue[tuple[str, str]] = WorkQueue(lambda: 0.0)
    controller = Controller(
        queue, observer, cluster, pod_endings, metrics, WriteWatch(lambda: 0.0), "i", lambda: at(60), lambda: 0.0, api
    )
    nodes.saw(spoil(NODE, data))

    async def some() -> None:
        for _ in range(4):
            await controller.reconcile_run(("default", "demo"))

    with no_crash():
        asyncio.run(some())


@pytest.mark.slow
@tried_with(40, 150)
def test_no_request_changes_objects_of_others(examples: int) -> None:
    holds_for(examples, check_no_request_changes_objects_of_others, st.data())


def check_no_request_changes_objects_of_others(data: st.DataObject) -> None:
    api = HostileApi(data)
    reconcile_four_times(api, data)
    for method, path, body in api.requests:
        assert "/namespaces/default/" in path, "even a read must stay in the namespace"
        if method == "GET":
            continue
        assert WRITES[method].fullmatch(path), (method, path)
        if method == "DELETE":
            uid = body["preconditions"]["uid"]
            jobs = {controller_uid(mapping(value_at(pod, "metadata"))) for pod in api.pods} - {""}
            assert uid in jobs if "/jobs/" in path else (path.rpartition("/")[2], uid) in api.owned()
        elif path.endswith("/events"):
            regarding = body["regarding"]
            assert (regarding["kind"], regarding["namespace"], regarding["name"]) == ("TrainingRun", "default", "demo")
            assert body["metadata"]["namespace"] == "default"
            assert len(body["note"]) <= 1024
        elif method == "POST":
            assert is_own(body, UID)
            assert is_confined(body)
        else:
            assert set(body) == {"metadata", "status"}, "the operator must not write a spec"
        json.dumps(body, allow_nan=False)


@pytest.mark.slow
@tried_with(25, 80)
def test_any_answer_of_kueue_is_tolerated(examples: int) -> None:
    holds_for(examples, check_any_answer_of_kueue_is_tolerated, st.data())


def check_any_answer_of_kueue_is_tolerated(data: st.DataObject) -> None:
    api = HostileApi(data)
    held = jobset(1)
    held["metadata"]["labels"][LABEL_QUEUE] = "research"
    api.run = run(
        {"attempt": 1, "jobSetUid": "jobset-1", "jobSetName": "demo-1"}, scheduling={"queue": {"name": "research"}}
    )
    api.jobsets = [held | {"spec": {"suspend": True}}]
    reconcile_four_times(api, data)
    assert any(path.endswith("/namespaces/default/workloads") for _, path, _ in api.requests)


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("169.254.169.254", ""),
        ("fe80::1", ""),
        ("0.0.0.0", ""),
        ("224.0.0.1", ""),
        ("metadata.google.internal", ""),
        ("10.0.0.1/latest#", ""),
        ("user@10.0.0.1", ""),
        (["10.0.0.1"], ""),
    ],
)
def test_only_addresses_of_pods_are_asked(value: object, asked: str) -> None:
    assert parse_pod(pod(podIP=value)).ip == asked
