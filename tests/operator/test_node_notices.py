"""Notices of nodes about maintenance or their end: they are parsed, kept only while they hold, and lead to one
checkpoint and one event.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.model.views import NoticeView
from halcyon_operator.observe.node_notices import NodeNotices, notices_of
from tests.operator.builders import at, head, jobset, observed, pod, report, rfc, run
from tests.operator.simulation import SimulatedCluster
from tests.operator.test_attempts import status

NOW = at(60)


def node(
    name: str = "node-a", *taints: str, labels: dict[str, str] | None = None, cordoned: bool = False
) -> dict[str, Any]:
    spec: dict[str, Any] = {"taints": [{"key": key, "effect": "NoSchedule"} for key in taints]}
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": spec | ({"unschedulable": True} if cordoned else {}),
    }


def epoch(seconds: float) -> str:
    return str(int(at(seconds).timestamp()))


@pytest.mark.parametrize(
    ("document", "wanted"),
    [
        (node(), []),
        (node("node-a", "example.com/own", "node.kubernetes.io/unschedulable"), []),
        (node(labels={"cloud.google.com/active-node-maintenance": "ONGOING"}), ["underway"]),
        (node(labels={"cloud.google.com/active-node-maintenance": "NONE"}), []),
        (node("node-a", "cloud.google.com/impending-node-termination"), ["terminating"]),
        (node("node-a", "cloud.google.com/maintenance-window-started"), ["window"]),
        (node("node-a", "ToBeDeletedByClusterAutoscaler"), ["draining"]),
        (node("node-a", "node.kubernetes.io/out-of-service"), ["outOfService"]),
        (node("node-a", "karpenter.sh/disrupted"), ["draining"]),
        (node("node-a", "karpenter.sh/disruption"), ["draining"]),
        (node("node-a", "aws-node-termination-handler/spot-itn"), ["terminating"]),
        (node("node-a", "aws-node-termination-handler/scheduled-maintenance"), ["draining"]),
        (node("node-a", "aws-node-termination-handler/asg-lifecycle-termination"), ["draining"]),
        (node("node-a", "aws-node-termination-handler/rebalance-recommendation"), ["draining"]),
        (node(cordoned=True), ["cordoned"]),
        (node(labels={"cloud.google.com/scheduled-maintenance-time": epoch(7200)}), ["scheduled"]),
        (node(labels={"cloud.google.com/scheduled-maintenance-time": "soon"}), []),
        (node(labels={"cloud.google.com/scheduled-maintenance-time": "9" * 18}), []),
        ({"metadata": {"name": "node-a", "labels": 3}, "spec": {"taints": "x", "unschedulable": "yes"}}, []),
        (None, []),
    ],
)
def test_notices_of_a_node_are_recognized(document: object, wanted: list[str]) -> None:
    assert [notice.notice for notice in notices_of(document)] == wanted


def test_only_nodes_with_notices_are_kept_and_only_their_runs_are_reconciled() -> None:
    nodes = NodeNotices()
    assert nodes.on(("a", "one"), ["node-1", "node-2", ""]) == nodes.on(("a", "two"), ["node-3"]) == ()
    for number in range(5000):
        assert nodes.saw(node(f"node-{number}")) == ()
    assert len(nodes) == 0
    assert nodes.saw(node("node-2", cordoned=True)) == (("a", "one"),)
    assert nodes.saw(node("node-2", cordoned=True)) == (), "the same notice again"
    assert nodes.saw(node("node-9", cordoned=True)) == (), "no run is on this node"
    assert nodes.on(("a", "one"), ["node-1", "node-2"]) == (NoticeView("node-2", "cordoned"),)
    assert nodes.saw(node("node-2")) == (("a", "one"),)
    assert nodes.saw(node("node-9"), deleted=True) == ()
    assert len(nodes) == 0
    nodes.forget(("a", "one"))
    assert nodes.saw(node("node-1", cordoned=True)) == ()


def reconciled(known: dict[str, Any] | None, *notices: NoticeView, seconds: float = 60, **more: Any) -> Any:
    document = run(status(**({"maintenance": known} if known is not None else {})))
    seen = {"jobsets": [jobset()], "pods": [pod()], "report": report(), "head": head(5), "notices": notices, **more}
    return reconcile(observed(document, **seen), at(seconds))


def messages(decision: Any) -> list[str]:
    return [event.message for event in decision.events if event.reason == "MaintenanceNotice"]


def test_a_notice_is_shown_reported_once_and_requests_a_checkpoint() -> None:
    first = reconciled(None, NoticeView("node-a", "terminating"))
    assert messages(first) == [
        "On nodes of the run the machine is about to end (node-a): asking for a checkpoint before the pods get the "
        "signal to end"
    ]
    assert [ask.request.id.split("-")[0] for ask in first.asks] == ["notice"]
    shown = first.status.maintenance.document()
    assert shown["notices"] == [{"node": "node-a", "notice": "terminating", "seenAt": rfc(60)}]
    second = reconciled(shown, NoticeView("node-a", "terminating"), seconds=62)
    assert messages(second) == []
    assert [ask.request.id for ask in second.asks] == [ask.request.id for ask in first.asks], (
        "the trainer has not accepted it yet"
    )
    assert second.status.maintenance == first.status.maintenance


def test_notices_of_several_machines_request_one_checkpoint_together() -> None:
    first = reconciled(None, NoticeView("node-a", "underway"))
    served = first.status.maintenance.document()
    served["save"] |= {"askedStep": 5, "step": 6}
    both = (NoticeView("node-a", "underway"), NoticeView("node-b", "underway"))
    covered = reconciled(served, *both, seconds=90)
    assert covered.asks == ()
    assert len(messages(covered)) == 1
    late = reconciled(served, *both, seconds=200)
    assert len(late.asks) == 1
    assert late.status.maintenance.save.requested_at == rfc(200)


def test_distant_maintenance_is_shown_and_checked_again_in_time() -> None:
    notice = NoticeView("node-a", "scheduled", at(7200))
    far = reconciled(None, notice)
    assert far.asks == ()
    assert messages(far) == ["On nodes of the run maintenance is scheduled (node-a)"]
    assert far.status.maintenance.document()["notices"][0]["at"] == rfc(7200)
    soon = reconciled(far.status.maintenance.document(), notice, seconds=7200 - 299)
    assert len(soon.asks) == 1
    assert messages(soon)[0].startswith("On nodes of the run maintenance begins soon (node-a): asking")
    waking = reconciled(None, NoticeView("node-a", "scheduled", at(60) + timedelta(seconds=301)))
    assert waking.requeue_after == pytest.approx(1.0)


def test_withdrawn_notices_are_removed_from_the_status() -> None:
    known = reconciled(None, NoticeView("node-a", "cordoned")).status.maintenance.document()
    assert reconciled(known).status.maintenance is None
    assert reconciled(known, NoticeView("node-a", "cordoned"), jobsets=[]).status.maintenance is None


def test_many_nodes_are_listed_within_bounds() -> None:
    notices = [NoticeView(f"node-{number:04}", "underway") for number in range(1000)]
    decision = reconciled(None, *notices)
    assert len(decision.status.maintenance.notices) == 64
    assert len(decision.asks) == 1
    assert "node-0000, node-0001, node-0002 and 61 more" in messages(decision)[0]


def test_a_notice_requests_one_checkpoint_despite_an_operator_restart() -> None:
    cluster = SimulatedCluster(run())
    cluster.settle()
    cluster.train(20)
    cluster.settle()
    cluster.notice(node("node-b", "cloud.google.com/impending-node-termination"))
    cluster.settle()
    assert cluster.asked == [], "a notice of a node without pods of the run must be ignored"
    cluster.notice(node("node-a", "cloud.google.com/impending-node-termination"))
    cluster.settle()
    assert [(where, step) for _, where, step in cluster.asked] == [((1, 0), 20)]
    cluster._start_operator()
    cluster.head = head(21)
    cluster.settle()
    assert cluster.status["maintenance"]["save"]["step"] == 21
    assert len(cluster.asked) == 1
    cluster.notice(node("node-a"))
    cluster.settle()
    assert "maintenance" not in cluster.status
