"""Runs that MultiKueue trains on another cluster: on the side of the user, and on that of the hardware.

tests/cluster/test_other_clusters.py tests with the real Kueue.
"""

import asyncio
from typing import Any

import pytest

from halcyon_api.base import InvalidRun
from halcyon_api.reading import parse_run
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.record.status_writes import status_document
from halcyon_operator.kube.client import NotFound
from halcyon_operator.kube.cluster import Cluster
from halcyon_operator.model.decision import Decision, WorkloadPlan
from halcyon_operator.model.workload import NoWorkload
from halcyon_operator.objects.jobset import build
from halcyon_operator.observe.runs import parse_run_view
from halcyon_operator.observe.workloads import Workloads, parse_workload
from tests.document_changes import changed
from tests.operator.builders import at, head, jobset, observed, rfc, run, settings_of
from tests.operator.test_queues import NO_QUOTA, PREEMPTED

SENT: dict[str, Any] = {"managedBy": "kueue.x-k8s.io/multikueue", "scheduling": {"queue": {"name": "research"}}}
SETTINGS = settings_of(kueue={"enabled": True, "multiKueue": True})


class SentRun:
    """A run of another cluster, and an operator that keeps nothing in memory."""

    def __init__(self) -> None:
        self.document, self.workload = run(**SENT), None
        self.document["metadata"]["generation"] = 1

    def reconcile(self, seconds: float, **conditions: Any) -> Decision:
        seen = NoWorkload() if self.workload is None else parse_workload(changed(self.workload, conditions))
        decision = reconcile(observed(self.document, settings=SETTINGS, workload=seen), at(seconds))
        if decision.status is not None:
            self.document["status"] = status_document(decision.status)
        assert all((one.kind, one.uid) == ("Workload", "uid-7") for one in decision.delete)
        if decision.delete:
            self.workload = None
        for plan in decision.create:
            assert isinstance(plan, WorkloadPlan)
            self.workload = changed(build(plan), {"metadata.uid": "uid-7", "status": NO_QUOTA["status"]})
        return decision

    def edit(self, **spec: Any) -> None:
        self.document["spec"] |= spec
        self.document["metadata"]["generation"] += 1

    def trains(self) -> None:
        """The run is admitted, and MultiKueue copies the status of the other cluster."""
        self.reconcile(0)
        assert self.workload is not None
        admitted = [{"type": kind, "status": "True"} for kind in ("QuotaReserved", "Admitted")]
        self.workload = changed(self.workload, {"status.conditions": admitted})
        self.document["status"] = {"phase": "Running", "attempt": 3, "observedGeneration": 1}
        assert self.reconcile(10) == Decision(requeue_after=20.0), "the status is the other cluster's"

    @property
    def phase(self) -> str:
        return self.document["status"]["phase"]


def test_a_run_asks_for_the_quota_of_all_its_pods_and_makes_nothing_else() -> None:
    story = SentRun()
    (plan,) = story.reconcile(0).create
    made = build(plan)
    (pods,) = made["spec"]["podSets"]
    assert (made["spec"]["queueName"], pods["count"]) == ("research", 2)
    assert made["metadata"]["ownerReferences"][0]["controller"] is True
    (container,) = pods["template"]["spec"]["containers"]
    assert container["resources"]["requests"]
    story.reconcile(20)
    assert story.document["status"]["queue"] == {"name": "research", "waitingSince": rfc(0)}
    assert "insufficient unused quota" in str(story.document["status"]["conditions"])


@pytest.mark.parametrize("end", ["suspended", "edited", "evicted", "succeeded", "failed"])
def test_the_workload_exists_as_long_as_the_run_wants_another_cluster(end: str) -> None:
    story = SentRun()
    story.trains()
    before, conditions = story.workload, {}
    match end:
        case "suspended":
            story.edit(suspend=True)
        case "edited":
            story.edit(suspend=False)
        case "evicted":
            conditions = {"status.conditions": PREEMPTED["status"]["conditions"]}
        case _:
            story.document["status"]["phase"] = end.capitalize()
    assert len(story.reconcile(20, **conditions).delete) == 1
    made = story.reconcile(30).create
    again = end in ("edited", "evicted")
    assert (len(made), story.phase) == (again, "Queued" if again else end.capitalize())
    if again:
        assert story.document["status"]["attempt"] == 3, "it shows what the other cluster has done"
        assert story.workload["metadata"]["name"] != before["metadata"]["name"]
    else:
        assert (story.reconcile(40).create, story.phase) == ((), end.capitalize())
        story.edit(suspend=False)
        assert (len(story.reconcile(50).create), story.phase) == (1, "Queued")
        assert not story.reconcile(60).delete


def test_a_run_that_multikueue_made_has_its_quota_and_stops_when_another_cluster_goes_on_with_it() -> None:
    document = run({"attempt": 1, "jobSetUid": "jobset-1", "jobSetName": "demo-1"}, scheduling=SENT["scheduling"])
    document["metadata"]["annotations"] = {"kueue.x-k8s.io/prebuilt-workload-name": "demo-7"}
    view = parse_run_view(document)
    assert view.spec is not None
    assert (view.spec.scheduling.queue, view.workload) == (None, "demo-7")
    decision = reconcile(observed(document, jobsets=[jobset(1)], settings=SETTINGS, head=head(9, epoch=(2, 0))), at(5))
    assert [one.name for one in decision.delete] == ["demo-1"]
    document["status"] = status_document(decision.status) if decision.status is not None else {}
    decision = reconcile(observed(document, settings=SETTINGS, head=head(9, epoch=(2, 0))), at(9))
    assert decision.status is not None
    assert (decision.status.phase, decision.create) == ("Failed", ())
    assert "another cluster goes on with the run" in str(decision.status.conditions)


class Api:
    """An API server with Workloads that MultiKueue has made."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.written: list[tuple[str, dict[str, Any]]] = []

    async def request(self, method: str, path: str, resource: str, **more: Any) -> dict[str, Any]:
        if method == "PATCH":
            self.written.append((path, more["body"]))
            return {}
        assert more["query"]["labelSelector"] == "kueue.x-k8s.io/multikueue-origin"
        return {"items": [{"metadata": {"name": name}} for name in self.names]}


def test_a_run_owns_only_a_workload_that_multikueue_made() -> None:
    document = run()
    document["metadata"]["annotations"] = {"kueue.x-k8s.io/prebuilt-workload-name": "demo-7"}
    api, other = Api("demo-6", "demo-7"), Api("demo-6")
    asyncio.run(Workloads(Cluster(api), lambda: 0.0).adopt(parse_run_view(document)))  # type: ignore[arg-type]
    ((path, body),) = api.written
    assert path == "/apis/kueue.x-k8s.io/v1beta2/namespaces/default/workloads/demo-7"
    (owner,) = body["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == (document["metadata"]["uid"], True)
    with pytest.raises(NotFound, match="MultiKueue has made no Workload demo-7"):
        asyncio.run(Workloads(Cluster(other), lambda: 0.0).adopt(parse_run_view(document)))  # type: ignore[arg-type]
    assert other.written == []


@pytest.mark.parametrize("queue", [None, {"name": "a", "priorityClass": "b"}])
def test_a_run_of_another_cluster_needs_a_queue_by_name_alone(queue: dict[str, Any] | None) -> None:
    with pytest.raises(InvalidRun, match="set the name, and leave the others out"):
        parse_run(run(**SENT | {"scheduling": {} if queue is None else {"queue": queue}}))


def test_an_installation_may_send_no_runs_to_other_clusters() -> None:
    decision = reconcile(observed(run(**SENT), settings=settings_of(kueue={"enabled": True})), at(0))
    assert decision.create == ()
    assert "set kueue.multiKueue in the chart" in str(decision.status)
