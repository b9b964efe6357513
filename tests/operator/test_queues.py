"""Runs in queues of Kueue: the objects made for them, their status while they wait, and the cost of a lost place.

tests/cluster/test_queues.py tests with the real Kueue. Here its Workload has every state that it could have.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from halcyon_api import names
from halcyon_api.base import InvalidRun
from halcyon_api.reading import parse_run
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.record.status_writes import status_document
from halcyon_operator.kube.client import ApiError, NotFound
from halcyon_operator.kube.cluster import Cluster
from halcyon_operator.model.decision import Boost, Decision, JobSetPlan
from halcyon_operator.model.workload import NoKueue, NoWorkload, WorkloadReading, WorkloadUnread
from halcyon_operator.objects.jobset import build_jobset
from halcyon_operator.objects.kueue import LABEL_QUEUE, PRIORITY_BOOST
from halcyon_operator.observe.runs import parse_run_view
from halcyon_operator.observe.workloads import Workloads, newest, parse_workload
from tests.document_changes import changed
from tests.operator.builders import (
    at,
    deleted,
    ended,
    head,
    jobset,
    observed,
    pod,
    report,
    rfc,
    run,
    settings_of,
    termination,
)

QUEUED: dict[str, Any] = {"name": "research", "priorityClass": "normal"}
WITH_KUEUE = settings_of(kueue={"enabled": True})


def workload(**conditions: Any) -> dict[str, Any]:
    """A Workload with conditions as (status, reason, message, seconds); other fields by path with ``__``."""
    plain = {name: value for name, value in conditions.items() if "__" not in name}
    document: dict[str, Any] = {
        "metadata": {"name": "jobset-demo-1-abcde", "creationTimestamp": rfc(0)},
        "spec": {"queueName": "research", "active": True},
        "status": {
            "conditions": [
                {
                    "type": name,
                    "status": str(truth),
                    "reason": reason,
                    "message": message,
                    "lastTransitionTime": rfc(seconds),
                }
                for name, (truth, reason, message, seconds) in plain.items()
            ]
        },
    }
    return changed(document, {name.replace("__", "."): value for name, value in conditions.items() if "__" in name})


NO_QUOTA = workload(
    QuotaReserved=(False, "Pending", "insufficient unused quota for cpu in flavor default, 1 more needed", 5)
)
PREEMPTED = workload(
    Evicted=(
        True,
        "Preempted",
        "Preempted to accommodate a workload (UID: 7) due to prioritization in the ClusterQueue",
        100,
    ),
    QuotaReserved=(True, "QuotaReserved", "Quota reserved in ClusterQueue all", 10),
    Admitted=(True, "Admitted", "The workload is admitted", 10),
)


class QueuedRun:
    """A run of two slices in a queue, and an operator that reconciles now and then and keeps nothing in memory."""

    def __init__(self, **spec: Any) -> None:
        self.document = run(scheduling={"queue": QUEUED}, **spec)
        self._made_at: dict[int, float] = {}
        self._deleted: set[str] = set()
        self.reconcile(0)
        self.reconcile(1)

    def reconcile(
        self,
        seconds: float,
        found: WorkloadReading | dict[str, Any] | None = None,
        *,
        held: bool = True,
        restarts: int = 0,
        **seen: Any,
    ) -> Decision:
        """One reconciliation, with a JobSet that the queue holds or not, once the run has one. A deleted JobSet exists
        as long as its pods."""
        reading = parse_workload(found) if isinstance(found, dict) else found
        jobsets: list[dict[str, Any]] = []
        if (attempt := self.status.get("attempt")) and seconds > 1:
            made = jobset(attempt, restarts=restarts, deleting=f"demo-{attempt}" in self._deleted) | {
                "spec": {"suspend": held}
            }
            made["metadata"]["labels"][LABEL_QUEUE] = "research"
            made["metadata"]["creationTimestamp"] = rfc(
                self._made_at.setdefault(attempt, 1 if attempt == 1 else seconds)
            )
            jobsets = [made] if seen.get("pods") or made["metadata"]["name"] not in self._deleted else []
        known = {"settings": WITH_KUEUE, "workload": reading, "progress_written_at": at(-1000)}
        decision = reconcile(observed(self.document, jobsets=jobsets, **known, **seen), at(seconds))
        if decision.status is not None:
            self.document["status"] = status_document(decision.status)
        self._deleted |= {one.name for one in decision.delete if one.kind == "JobSet"}
        return decision

    @property
    def status(self) -> dict[str, Any]:
        return self.document.get("status", {})

    def condition(self, kind: str) -> tuple[str, str, str]:
        found = next(one for one in self.status["conditions"] if one["type"] == kind)
        return found["status"], found["reason"], found["message"]

    def admitted(self) -> None:
        """The run waits for a while, is admitted, trains, and has saved step 40."""
        self.reconcile(2, NO_QUOTA)
        self.reconcile(30, held=False)
        pods = [pod(1, 0, 0), pod(1, 0, 1)]
        self.reconcile(40, held=False, pods=pods, report=report(step=10, first=35))
        self.reconcile(90, held=False, pods=pods, report=report(step=45, first=35), head=head(40))
        assert self.status["phase"] == "Running"


def leaving(seconds: float, *, saved: bool = False) -> list[dict[str, Any]]:
    """The pods of the first process group after the queue has deleted them."""
    gone = [deleted(pod(1, 0, index), seconds) for index in range(2)]
    for one in gone if saved else ():
        ending = termination("preempted", 42, step=50, message="saved step 50 and left", saved="step")
        one["status"] = ended(42, seconds + 2, ending)
    return gone


# Created objects
# ----------------------------------------------------------------------------------------------------------------------


def made(**spec: Any) -> dict[str, Any]:
    found = parse_run_view(run(**spec))
    assert found.spec is not None, found.problems
    return build_jobset(JobSetPlan(found, found.spec, WITH_KUEUE, 1, 0, 3))


def test_only_the_jobset_of_a_queued_run_is_created_suspended() -> None:
    held, free = made(scheduling={"queue": QUEUED}), made()
    assert (held["spec"]["suspend"], free["spec"]["suspend"]) == (True, False)
    labels = held["metadata"]["labels"]
    assert (labels[LABEL_QUEUE], labels["kueue.x-k8s.io/priority-class"]) == ("research", "normal")
    assert not any("kueue" in label for label in free["metadata"]["labels"])
    assert held["metadata"]["labels"].items() >= free["metadata"]["labels"].items()


def test_only_kueue_places_pods_if_the_queue_has_a_topology() -> None:
    spec = {"accelerator": {"type": "v5e", "topology": "4x4", "slices": 2}, "trainer__batchSize": 32}
    exclusive = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    assert exclusive in made(**spec, scheduling={"queue": QUEUED})["metadata"]["annotations"]
    placed = made(
        **spec, scheduling={"queue": QUEUED | {"topology": {"required": "rack", "slice": "example.com/host-group"}}}
    )
    assert exclusive not in placed["metadata"].get("annotations", {})
    template = placed["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert template["metadata"]["annotations"] == {
        "kueue.x-k8s.io/podset-required-topology": "rack",
        "kueue.x-k8s.io/podset-slice-required-topology": "example.com/host-group",
        "kueue.x-k8s.io/podset-slice-size": "4",
    }


@pytest.mark.parametrize(
    ("scheduling", "recovery", "mend"),
    [
        ({"queue": {"name": "a b"}}, {}, "must begin and end with a letter or digit"),
        ({"queue": {"name": "x" * 64}}, {}, "at most 63"),
        ({"queue": {"name": "a", "topology": {}}}, {}, "set required, preferred or slice"),
        ({"queue": {"name": "a", "topology": {"required": "x", "preferred": "y"}}}, {}, "not both"),
        ({"queue": {"name": "a", "topology": {"slice": "a b"}}}, {}, "must be the key of a label"),
        ({"queue": {"name": "a", "maxRunDurationSeconds": 5}}, {}, "greater than or equal to 600"),
        ({"queue": {"name": "a"}}, {"elastic": {"minSlices": 1}}, "leave one of the two out"),
    ],
)
def test_invalid_queue_settings_are_rejected(scheduling: dict[str, Any], recovery: dict[str, Any], mend: str) -> None:
    with pytest.raises(InvalidRun, match=mend):
        parse_run(run(scheduling=scheduling, recovery=recovery))


def test_a_queued_run_is_rejected_at_once_if_kueue_is_not_enabled() -> None:
    decision = reconcile(observed(run(scheduling={"queue": QUEUED})), at(0))
    assert decision.create == ()
    assert decision.status is not None
    found = decision.status.condition("Stalled")
    assert found is not None
    assert (found.status, found.reason) == ("True", "InvalidSpec")
    assert "spec.scheduling.queue" in found.message
    assert "kueue.enabled" in found.message


# Waiting
# ----------------------------------------------------------------------------------------------------------------------

RESERVED = {
    "QuotaReserved": (True, "QuotaReserved", "Quota reserved in ClusterQueue all", 9),
    "status__admission": {"clusterQueue": "all"},
}


@pytest.mark.parametrize(
    ("found", "reason", "text", "stalled"),
    [
        (NO_QUOTA, "WaitingForQuota", "insufficient unused quota for cpu in flavor default, 1 more needed", False),
        (workload(), "WaitingForQuota", "does not report what is missing", False),
        (
            workload(QuotaReserved=(False, "Inadmissible", "LocalQueue research doesn't exist", 5)),
            "QueueInadmissible",
            "LocalQueue research doesn't exist; correct scheduling.queue.name",
            False,
        ),
        (
            workload(
                **RESERVED,
                status__admissionChecks=[
                    {"name": "dws", "state": "Pending", "message": "Waiting for resources. ETA: 2030-01-01"},
                    {"name": "budget", "state": "Ready", "message": "granted"},
                ],
            ),
            "WaitingForAdmissionCheck",
            "quota is reserved in ClusterQueue all; dws is Pending: Waiting for resources. ETA: 2030-01-01",
            False,
        ),
        (workload(**RESERVED, Admitted=(True, "Admitted", "", 9)), "Admitted", "about to start", False),
        (
            workload(
                Evicted=(True, "PodsReadyTimeout", "Exceeded the PodsReady timeout", 9),
                QuotaReserved=(False, "Pending", "", 9),
                status__requeueState={"count": 1, "requeueAt": rfc(600)},
            ),
            "WaitingToRequeue",
            f"queued again at {rfc(600)}, after PodsReadyTimeout: Exceeded the PodsReady timeout",
            False,
        ),
        (
            workload(
                Evicted=(True, "Deactivated", "exceeding the maximum number of re-queuing retries", 9),
                spec__active=False,
            ),
            "QueueDeactivated",
            "Workload jobset-demo-1-abcde is deactivated after Deactivated: exceeding the maximum number of re-queuing "
            "retries",
            True,
        ),
        (
            workload(Finished=(True, "FailedToStart", "conflict for nodeSelector", 9)),
            "QueueRefused",
            "Kueue does not start it, FailedToStart: conflict for nodeSelector; fix what it names",
            True,
        ),
        (NoWorkload(), "WaitingForKueue", "has not created a Workload yet for JobSet demo-1", False),
        (NoKueue(), "KueueMissing", "install Kueue, or leave scheduling.queue out", True),
        (WorkloadUnread("why not"), "WaitingForQuota", "does not read (why not): kubectl describe workloads", False),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_a_queued_run_reports_what_it_waits_for_and_since_when(
    found: Any, reason: str, text: str, stalled: bool
) -> None:
    story = QueuedRun()
    decision = story.reconcile(20, found)
    assert story.status["phase"] == "Queued"
    for kind, truth in (("Queued", "True"), ("Ready", "False")):
        status, why, message = story.condition(kind)
        assert (status, why) == (truth, reason)
        assert message.startswith(f"waiting in queue research since {rfc(1)}: ")
        assert text in message
    assert story.condition("Stalled")[0] == ("True" if stalled else "False")
    assert story.condition("Reconciling")[0] == ("False" if stalled else "True")
    assert (decision.create, decision.delete) == ((), ()), "its place in the queue must be kept"
    assert story.status["queue"]["waitingSince"] == rfc(1)


def test_a_kueue_that_ignores_the_jobset_is_reported() -> None:
    story = QueuedRun()
    story.reconcile(20, NoWorkload())
    story.reconcile(90, NoWorkload())
    status, reason, message = story.condition("Queued")
    assert (status, reason) == ("True", "WaitingForKueue")
    assert "integrations" in message


def test_waiting_for_quota_counts_as_capacity_wait() -> None:
    story = QueuedRun()
    story.reconcile(2, NO_QUOTA)
    story.reconcile(62, NO_QUOTA)
    assert story.status["goodput"]["seconds"]["capacityWait"] == pytest.approx(60, abs=1.5)
    story.reconcile(72, held=False)
    assert story.status["goodput"]["seconds"]["capacityWait"] == pytest.approx(70, abs=1.5)
    assert story.condition("Queued")[0] == "False"
    assert story.status["phase"] == "Starting"
    story.reconcile(75, held=False)
    assert story.status["goodput"]["seconds"]["operatorDelay"] == pytest.approx(3, abs=1.5)


def test_waiting_and_admission_are_each_reported_once() -> None:
    story = QueuedRun()
    reasons = [event.reason for seconds in (2, 20, 40) for event in story.reconcile(seconds, NO_QUOTA).events]
    assert reasons.count("Queued") == 1
    events = story.reconcile(61, held=False).events
    assert [event.message for event in events if event.reason == "Admitted"] == [
        "Attempt 1 was admitted by queue research after 60 s"
    ]
    assert not [event for event in story.reconcile(62, held=False).events if event.reason in ("Admitted", "Queued")]


def test_avoided_nodes_stay_avoided_while_a_run_waits_for_quota() -> None:
    story = QueuedRun()
    story.reconcile(2, NO_QUOTA)
    placement = {"slices": 2, "wantedSlices": 2, "avoided": [{"node": "node-b", "since": rfc(0), "blames": 2}]}
    story.document["status"]["placement"] = placement
    for seconds in (10, 1000, 5000):
        assert story.reconcile(seconds, NO_QUOTA).delete == ()
    assert [one["node"] for one in story.status["placement"]["avoided"]] == ["node-b"]
    assert "waitingSince" not in story.status["placement"]


def test_a_suspended_run_leaves_the_queue() -> None:
    story = QueuedRun()
    story.reconcile(2, NO_QUOTA)
    story.document["spec"]["suspend"] = True
    assert [(one.kind, one.name) for one in story.reconcile(3, NO_QUOTA).delete] == [("JobSet", "demo-1")]


@pytest.mark.parametrize(
    ("seconds", "saved", "known", "written"),
    [
        (500, True, None, None),
        (700, True, None, "1"),
        (700, True, "1", None),
        (700, False, None, "1"),
        (90_000, True, "1", "6"),
        (500, True, "2", "0"),
    ],
)
def test_the_run_that_would_train_longest_again_is_preempted_last(
    seconds: float, saved: bool, known: str | None, written: str | None
) -> None:
    """Step 40 was saved at second 40; without it, all since the start at second 1 would be lost."""
    story = QueuedRun()
    story.admitted()
    if not saved:
        del story.document["status"]["checkpoint"]
    found = workload() if known is None else workload(metadata__annotations={PRIORITY_BOOST: known})
    seen: dict[str, Any] = {"pods": [pod(1, 0, 0), pod(1, 0, 1)], "report": report(step=45, first=35)}
    decision = story.reconcile(seconds, found, held=False, **seen | ({"head": head(40)} if saved else {}))
    assert decision.boost == (None if written is None else Boost("jobset-1", "jobset-demo-1-abcde", written))
    assert story.reconcile(9_999, found, **seen).boost is None, "a JobSet that waits keeps its priority"


# Eviction
# ----------------------------------------------------------------------------------------------------------------------


def test_losing_the_quota_has_its_own_cause_and_uses_no_budget() -> None:
    story = QueuedRun()
    story.admitted()
    # Kueue suspends the JobSet; the processes save and end. The operator deletes the JobSet at once, because Kueue
    # could admit it again meanwhile.
    decision = story.reconcile(101, PREEMPTED, pods=leaving(101))
    assert [(one.kind, one.name) for one in decision.delete] == [("JobSet", "demo-1")]
    assert [event.reason for event in decision.events if event.type == "Warning"] == ["QueueEvicted"]
    assert story.status["phase"] == "Restarting"
    assert "due to prioritization in the ClusterQueue" in story.condition("Ready")[2]
    for seconds in (103, 105):
        decision = story.reconcile(seconds, PREEMPTED, pods=leaving(101, saved=seconds == 105), head=head(50))
        assert (decision.delete, decision.create) == ((), ()), "the processes must have time to save"
    # The processes have ended.
    gone = leaving(101, saved=True)
    story.reconcile(106, gone=gone, head=head(50))
    assert story.status["attempt"] == 2
    story.reconcile(107, NO_QUOTA, gone=gone, head=head(50))
    first, second = story.status["history"]
    assert (first["cause"], first["toStep"]) == ("queueEvicted", 50)
    assert "queue research took its quota back, Preempted: Preempted to accommodate" in first["message"]
    assert (second["attempt"], second["restart"]) == (2, 0)
    assert story.status["restarts"] == {**dict.fromkeys(story.status["restarts"], 0), "total": 1, "queueEvicted": 1}
    assert story.status["failuresWithoutCheckpoint"] == 0
    assert story.status["phase"] == "Queued"
    assert story.status["queue"]["waitingSince"] == rfc(107)
    # All the time until it is admitted again counts as a wait for capacity.
    waited = story.status["goodput"]["seconds"]["capacityWait"]
    story.reconcile(207, NO_QUOTA)
    assert story.status["goodput"]["seconds"]["capacityWait"] - waited == pytest.approx(100)
    # It resumes at the step at which it stopped.
    story.reconcile(210, held=False)
    story.reconcile(
        220, held=False, pods=[pod(2, 0, 0)], report=report(2, 0, step=51, resumed=50, first=215), head=head(50)
    )
    assert (story.status["phase"], story.status["history"][1]["fromStep"]) == ("Running", 50)
    assert story.status["goodput"]["lostSteps"] == 0


def test_a_process_group_that_jobset_restarted_keeps_its_place_in_the_queue() -> None:
    """A Job may see the exit code of a saving process before its pods are deleted; then JobSet's rule counts the next
    restart.
    """
    story = QueuedRun()
    story.admitted()
    decision = story.reconcile(105, PREEMPTED, restarts=1, pods=leaving(101, saved=True), head=head(50))
    assert (decision.delete, story.status["phase"]) == ((), "Queued")
    first, second = story.status["history"]
    assert (first["cause"], first["toStep"], second["restart"]) == ("queueEvicted", 50, 1)
    assert "saved step 50 and left" in first["message"]
    assert story.status["restarts"]["queueEvicted"] == 1
    assert story.status["queue"]["waitingSince"] == rfc(100)
    story.reconcile(210, held=False, restarts=1)
    story.reconcile(
        220,
        held=False,
        restarts=1,
        pods=[pod(1, 1, 0)],
        report=report(1, 1, step=51, resumed=50, first=215),
        head=head(50),
    )
    assert (story.status["phase"], story.status["attempt"], story.status["history"][1]["fromStep"]) == (
        "Running",
        1,
        50,
    )


def test_processes_readmitted_while_the_operator_was_down_train_on_in_the_same_attempt() -> None:
    story = QueuedRun()
    story.admitted()
    again = [pod(1, 0, 0), pod(1, 0, 1)]
    for one in again:
        one["metadata"] |= {"uid": f"{one['metadata']['uid']}-again", "creationTimestamp": rfc(300)}
    seen: dict[str, Any] = {
        "gone": leaving(101, saved=True),
        "report": report(step=60, resumed=50, first=310),
        "head": head(50),
    }
    decision = story.reconcile(320, held=False, pods=again, **seen)
    assert (decision.delete, story.status["phase"], story.condition("Ready")[1]) == ((), "Running", "Running")
    # Its later end has its own cause.
    crashed = [pod(1, 0, 0, **ended(1, 400)), again[1]]
    crashed[0]["metadata"]["uid"] = again[0]["metadata"]["uid"]
    story.reconcile(405, held=False, restarts=1, pods=crashed, **(seen | {"report": None}))
    assert (story.status["history"][0]["cause"], story.status["failuresWithoutCheckpoint"]) == ("failed", 1)


def test_a_run_that_a_user_deactivated_stays_out_of_the_queue_until_reactivated() -> None:
    """A new attempt would have a new Workload, and be admitted at once."""
    story = QueuedRun()
    story.admitted()
    out = workload(Evicted=(True, "Deactivated", "The workload is deactivated", 100), spec__active=False)
    story.reconcile(101, out, pods=leaving(101))
    assert story.condition("Ready")[1] == "QueueEvicted"
    for seconds in (110, 1000):
        decision = story.reconcile(seconds, out, gone=leaving(101, saved=True), head=head(50))
        assert (decision.delete, story.status["phase"], story.status["attempt"]) == ((), "Queued", 1)
        assert story.condition("Stalled")[:2] == ("True", "QueueDeactivated")
    story.reconcile(1100, held=False, head=head(50))
    again = [pod(1, 0, 0), pod(1, 0, 1)]
    for one in again:
        one["metadata"] |= {"uid": f"{one['metadata']['uid']}-again", "creationTimestamp": rfc(1101)}
    story.reconcile(
        1120,
        held=False,
        pods=again,
        gone=leaving(101, saved=True),
        report=report(step=60, resumed=50, first=1110),
        head=head(50),
    )
    assert (story.status["phase"], story.condition("Ready")[1], story.status["attempt"]) == ("Running", "Running", 1)


def test_an_operator_that_was_down_still_finds_the_cause() -> None:
    story = QueuedRun()
    story.admitted()
    story.reconcile(200, PREEMPTED, restarts=1)
    assert story.status["history"][0]["cause"] == "queueEvicted"
    assert story.status["restarts"]["queueEvicted"] == 1


def test_a_crash_before_the_eviction_stays_a_crash() -> None:
    story = QueuedRun()
    story.admitted()
    crashed = [pod(1, 0, 0, **ended(1, 95)), *leaving(101)[1:]]
    story.reconcile(101, PREEMPTED, pods=crashed)
    story.reconcile(105, PREEMPTED, restarts=1, pods=crashed)
    assert story.status["history"][0]["cause"] == "failed"
    assert story.status["failuresWithoutCheckpoint"] == 1


def test_an_earlier_eviction_is_not_taken_for_the_cause_of_a_later_end() -> None:
    story = QueuedRun()
    story.admitted()
    story.reconcile(105, PREEMPTED, restarts=1, pods=leaving(101, saved=True))
    story.reconcile(
        108, PREEMPTED, restarts=1
    )  # the Workload has this condition as long as the next process group waits
    second = [pod(1, 1, 0), pod(1, 1, 1)]
    story.reconcile(110, held=False, restarts=1, pods=second, report=report(1, 1, step=60, resumed=50, first=109))
    gone = [deleted(second[0], 120), second[1]]
    story.reconcile(121, held=False, restarts=1, pods=gone)
    story.reconcile(125, held=False, restarts=2, pods=gone)
    assert [entry.get("cause") for entry in story.status["history"]] == ["queueEvicted", "podDeleted", None]


def test_pods_that_never_started_use_no_budget_and_no_attempt_number() -> None:
    """As with an image that does not exist: Kueue counts the requeues in the Workload, so the Workload must stay."""
    story = QueuedRun()
    story.reconcile(2, NO_QUOTA)
    pending = [pod(1, 0, index, phase="Pending", containerStatuses=[]) for index in range(2)]
    story.reconcile(30, held=False, pods=pending)
    late = workload(
        Evicted=(True, "PodsReadyTimeout", "Exceeded the PodsReady timeout", 70),
        QuotaReserved=(False, "Pending", "", 70),
        status__requeueState={"count": 1, "requeueAt": rfc(600)},
    )
    # The status that the kubelet writes for a container that never started.
    lost = {"exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": None, "finishedAt": None}
    gone = [deleted(one, 70) for one in pending]
    for one in gone:
        one["status"] |= {"phase": "Failed", "containerStatuses": [{"name": "trainer", "state": {"terminated": lost}}]}
    story.reconcile(71, late, pods=gone)
    for seconds in (72, 100, 500):
        assert story.reconcile(seconds, late, gone=gone).delete == ()
        assert (story.status["phase"], story.condition("Queued")[1]) == ("Queued", "WaitingToRequeue")
    assert (story.status["queue"]["eviction"]["reason"], story.status["queue"]["waitingSince"]) == (
        "PodsReadyTimeout",
        rfc(70),
    )
    # Admitted again, it is the same process group. The ends of the earlier pods have nothing to do with its end, and
    # neither has the queue.
    pods = [pod(1, 0, index) for index in range(2)]
    for one in pods:
        one["metadata"]["uid"] += "-again"
    story.reconcile(610, held=False, pods=pods, gone=gone, report=report(step=10, first=605))
    assert (story.status["phase"], story.condition("Ready")[1]) == ("Running", "Running")
    left = [deleted(pods[0], 620), pods[1]]
    story.reconcile(621, held=False, pods=left, gone=gone)
    story.reconcile(625, held=False, restarts=1, pods=left, gone=gone)
    assert [entry.get("cause") for entry in story.status["history"]] == ["podDeleted", None]


@pytest.mark.parametrize(
    "reason", ["PodsReadyTimeout", "AdmissionCheck", "ClusterQueueStopped", "LocalQueueStopped", "NodeFailures"]
)
def test_every_reason_for_losing_the_quota_is_reported_by_name(reason: str) -> None:
    story = QueuedRun()
    story.admitted()
    lost = workload(Evicted=(True, reason, "The reason in words", 100))
    story.reconcile(101, lost, pods=leaving(101))
    assert f"{reason}: The reason in words" in story.status["history"][0]["message"]
    assert story.status["queue"]["eviction"] == {
        "attempt": 1,
        "restart": 0,
        "reason": reason,
        "message": "The reason in words",
        "time": rfc(100),
    }


# Reading
# ----------------------------------------------------------------------------------------------------------------------


class Api:
    """An API server that has Workloads, or answers with an error."""

    def __init__(self, *items: dict[str, Any], error: ApiError | None = None) -> None:
        self.items, self.error, self.asked = items, error, 0

    async def request(
        self, method: str, path: str, resource: str, *, query: dict[str, str], **_: Any
    ) -> dict[str, Any]:
        self.asked += 1
        expected = (
            "GET",
            "/apis/kueue.x-k8s.io/v1beta2/namespaces/ns/workloads",
            "workloads",
            "kueue.x-k8s.io/job-uid=u",
        )
        assert (method, path, resource, query["labelSelector"]) == expected
        if self.error is not None:
            raise self.error
        return {"items": list(self.items)}


def read(api: Api) -> WorkloadReading:
    return asyncio.run(Workloads(Cluster(api), lambda: 0.0).read("ns", "u", 0))  # type: ignore[arg-type]


def test_answers_of_the_api_server_about_a_workload_are_distinguished() -> None:
    assert read(Api()) == NoWorkload()
    assert read(Api(NO_QUOTA)) == parse_workload(NO_QUOTA)
    assert read(Api(error=NotFound(404, "NotFound", ""))) == NoKueue()
    assert isinstance(read(Api(error=ApiError(403, "Forbidden", ""))), WorkloadUnread)
    with pytest.raises(ApiError):
        read(Api(error=ApiError(500, "InternalError", "")))


def test_of_two_workloads_the_newest_that_is_not_being_deleted_counts() -> None:
    old, new = changed(PREEMPTED, {"metadata.name": "old"}), changed(NO_QUOTA, {"metadata.creationTimestamp": rfc(9)})
    assert newest((new, old)) == parse_workload(new)
    assert newest((changed(new, {"metadata.deletionTimestamp": rfc(10)}), old)) == parse_workload(old)


def test_a_workload_is_read_again_only_when_it_is_too_old() -> None:
    now, api = [0.0], Api(NO_QUOTA)
    workloads = Workloads(Cluster(api), lambda: now[0])  # type: ignore[arg-type]
    for seconds, age, asked in ((0, 15, 1), (14, 15, 1), (14, 0, 2), (20, 15, 2), (29, 15, 3)):
        now[0] = seconds
        assert asyncio.run(workloads.read("ns", "u", age)) == parse_workload(NO_QUOTA)
        assert api.asked == asked


def test_a_queue_label_set_by_kueue_counts_like_a_requested_queue() -> None:
    """A namespace may have a default queue: a run that names none is held there too, and reports it."""
    held = jobset() | {"spec": {"suspend": True}}
    held["metadata"]["labels"] = {**held["metadata"]["labels"], LABEL_QUEUE: "default"}
    started = {
        "attempt": 1,
        "jobSetName": "demo-1",
        "jobSetUid": "jobset-1",
        "history": [{"attempt": 1, "restart": 0, "startedAt": rfc(0)}],
    }
    decision = reconcile(
        observed(run(started), jobsets=[held], settings=WITH_KUEUE, workload=parse_workload(NO_QUOTA)), at(60)
    )
    assert decision.status is not None
    assert decision.status.phase == "Queued"
    assert decision.status.queue is not None
    assert (decision.status.queue.name, names.LABEL_RUN in held["metadata"]["labels"]) == ("default", True)
