"""Why a pod does not start, if only its events say so. Events are read beside the reconciliations, seldom, with a
limit, and their text is cleaned."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from halcyon_operator.decide.record.status_writes import COUNT_SECONDS
from halcyon_operator.kube.client import ApiError
from halcyon_operator.model.ownership import SILENT_SECONDS
from halcyon_operator.model.views import PodView
from halcyon_operator.observe.jobsets import parse_jobset
from halcyon_operator.observe.pod_events import (
    MAX_AT_ONCE,
    MAX_MESSAGE,
    MISSING_PAUSE_SECONDS,
    MISSING_SECONDS,
    PAUSE_SECONDS,
    PodEvents,
    Subject,
    newest_warning,
    without_pods,
)
from halcyon_operator.observe.pods import parse_pod
from halcyon_operator.observe.runs import parse_run_view
from tests.operator.builders import at, jobset, pod, rfc, run
from tests.operator.hostile import JUNK
from tests.operator.simulation import KEY, PODS, SimulatedCluster
from tests.operator.test_attempts import status
from tests.operator.test_held_pods import TWO

UID, NAME = "pod-1-0-0-0", "demo-1-s-0-0-abcde"
MOUNT = 'MountVolume.SetUp failed for volume "keys" : secret "bucket-keys" not found'


def event(
    reason: str = "FailedMount", message: Any = MOUNT, *, at: float = 200, uid: str = UID, **more: Any
) -> dict[str, Any]:
    about = {"kind": "Pod", "name": NAME, "uid": uid}
    return {
        "involvedObject": about,
        "type": "Warning",
        "reason": reason,
        "message": message,
        "lastTimestamp": rfc(at),
        **more,
    }


def waiting(scheduled: float = 100) -> dict[str, Any]:
    conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": rfc(scheduled)}]
    state = {"waiting": {"reason": "ContainerCreating"}}
    return pod(phase="Pending", conditions=conditions, containerStatuses=[{"name": "trainer", "state": state}])


def late(**changes: Any) -> PodView:
    return replace(parse_pod(waiting()), **changes)


POD = Subject("Pod", NAME, UID, at(100))
JOB_SET = parse_jobset(jobset())
STATUS = parse_run_view(run(status())).status


def hang(cluster: SimulatedCluster, scheduled: float = 0) -> None:
    """The run's pods hang for five minutes."""
    for place in [place for place in cluster.api.objects if place.startswith(PODS)]:
        del cluster.api.objects[place]
    cluster.add_pod(waiting(scheduled))
    cluster.now += 301


def settle_messages(cluster: SimulatedCluster) -> None:
    """Settle, and wait until messages are written that are written only every few seconds."""
    cluster.settle()
    cluster.now += COUNT_SECONDS
    cluster.settle()


def ready(cluster: SimulatedCluster) -> dict[str, Any]:
    return next(one for one in cluster.status["conditions"] if one["type"] == "Ready")


def test_the_newest_warning_is_reported() -> None:
    cluster = SimulatedCluster(run())
    cluster.settle()
    hang(cluster)
    cluster.api.events = [event("FailedCreatePodSandBox", "no network", at=100), event(at=200)]
    settle_messages(cluster)
    assert ready(cluster)["reason"] == "PodsNotStarting"
    sentence = (
        f": ContainerCreating; FailedMount: {MOUNT}; `kubectl describe pod demo-1-s-0-0-abcde` has all its events"
    )
    assert ready(cluster)["message"].endswith(sentence)
    cluster.api.events.append(event("FailedCreatePodSandBox", "no network", at=300))
    cluster.now += PAUSE_SECONDS
    settle_messages(cluster)
    assert "; FailedCreatePodSandBox: no network; " in ready(cluster)["message"]


REFUSALS = (
    'pods "demo-1-s-1-0-x" is forbidden: exceeded quota: team, requested: pods=1, used: pods=0, limited: pods=0',
    'pods "demo-1-s-1-0-x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi',
    'admission webhook "validate.kyverno.svc" denied the request: the label cost-center is required',
    'Internal error occurred: failed calling webhook "mutate.example.com": no endpoints available for service "policy"',
    'error looking up service account default/misspelt: serviceaccount "misspelt" not found',
    'pods "demo-1-s-1-0-x" is forbidden: no PriorityClass with name misspelt was found',
)


@pytest.mark.parametrize(
    "refusal", REFUSALS, ids=["quota", "LimitRange", "label", "webhook", "serviceAccountName", "priorityClassName"]
)
def test_the_reason_why_no_pod_is_made_is_reported_within_seconds(refusal: str) -> None:
    cluster = SimulatedCluster(run())
    cluster.slices_with_room = [0]
    cluster.settle()
    job = {"kind": "Job", "name": "demo-1-s-1", "uid": "job-1"}
    cluster.api.events = [event("FailedCreate", f"Error creating: {refusal}", at=cluster.now, involvedObject=job)]
    cluster.now += MISSING_PAUSE_SECONDS
    settle_messages(cluster)
    conditions = {one["type"]: (one["status"], one["reason"]) for one in cluster.status["conditions"]}
    assert (conditions["Ready"], conditions["Degraded"]) == (("False", "PodsRefused"), ("True", "PodsRefused"))
    assert (
        ready(cluster)["message"]
        == f"attempt 1: Job demo-1-s-1 cannot make its pods, FailedCreate: Error creating: {refusal}"
    )
    cluster.add_pod(pod(slice_index=1))
    cluster.now += MISSING_PAUSE_SECONDS
    settle_messages(cluster)
    assert ready(cluster)["reason"] != "PodsRefused", "the pods are there"


OLD_END = "Job has reached the specified backoff limit"


def about_a_job(reason: str, uid: str) -> dict[str, Any]:
    return event(reason, OLD_END, involvedObject={"kind": "Job", "name": "demo-1-s-1", "uid": uid})


@pytest.mark.parametrize(
    "old",
    [
        about_a_job("FailedCreate", "of-the-job-before"),
        about_a_job("PodFailurePolicy", "job-1"),
        about_a_job("BackoffLimitExceeded", "job-1"),
        event(
            "RestartJobSetFailurePolicyAction", involvedObject={"kind": "JobSet", "name": "demo-1", "uid": "jobset-1"}
        ),
    ],
    ids=["of an old Job", "a matched rule", "the limit", "a restart"],
)
def test_the_end_of_the_job_before_is_no_refusal(old: dict[str, Any]) -> None:
    kind, uid = old["involvedObject"]["kind"], {"Job": "job-1", "JobSet": "jobset-1"}[old["involvedObject"]["kind"]]
    subject = Subject(kind, old["involvedObject"]["name"], uid, at(100))
    assert newest_warning(subject, [old]) is None
    reason = "FailedCreate" if kind == "Job" else "JobCreationFailed"
    refusal = event(reason, "exceeded quota", involvedObject={**old["involvedObject"], "uid": uid})
    found = newest_warning(subject, [old, refusal])
    assert found is not None
    assert (found.reason, found.message) == (reason, "exceeded quota")


def test_a_refusal_of_an_earlier_process_group_is_not_shown_again() -> None:
    """The name of the Job is the same after a restart, and the answer about the new one comes later."""

    async def story() -> None:
        reads = PodEvents(Refusals(), lambda key: None, lambda: at(1000), lambda: 0.0)  # type: ignore[arg-type]
        first = parse_run_view(run(status(topology=TWO))).status
        reads.of(KEY, [], JOB_SET, first)
        await rounds()
        known = reads.of(KEY, [], JOB_SET, first)
        assert known is not None
        assert known.reason == "FailedCreate"
        entry = first.history[0].model_copy(update={"restart": 1, "started_at": rfc(900)})
        restarted = first.model_copy(update={"history": [*first.history, entry]})
        assert reads.of(KEY, [], replace(JOB_SET, restarts=1), restarted) is None
        await reads.close()

    asyncio.run(story())


class Refusals:
    """A Job whose pods were refused."""

    async def job_uid(self, namespace: str, name: str) -> str:
        return "job-0"

    async def warnings(self, namespace: str, uid: str) -> Sequence[object]:
        return [about_a_job("FailedCreate", "job-0")]


def test_a_jobset_controller_that_does_not_answer_is_reported() -> None:
    cluster = SimulatedCluster(run())
    cluster.api.jobset_controller_away = True
    cluster.settle()
    cluster.now = SILENT_SECONDS - 15
    settle_messages(cluster)
    assert ready(cluster)["reason"] == "Starting"
    cluster.now += 2 * MISSING_PAUSE_SECONDS
    settle_messages(cluster)
    sentence = (
        "there is no Job demo-1-s-0 yet: the JobSet controller does not answer; check the deployment "
        "jobset-controller-manager"
    )
    assert (ready(cluster)["reason"], ready(cluster)["message"]) == ("JobSetControllerSilent", f"attempt 1: {sentence}")
    cluster.api.jobset_controller_away = False
    cluster.now += MISSING_PAUSE_SECONDS
    settle_messages(cluster)
    assert ready(cluster)["reason"] == "Starting"


def test_events_are_read_about_the_first_job_without_all_its_pods() -> None:
    begun = parse_run_view(run(status(topology=TWO))).status

    def asked(*pods: PodView, seconds: float = MISSING_SECONDS) -> list[str]:
        return [subject.name for subject in without_pods(pods, JOB_SET, begun, at(seconds))]

    assert asked() == ["demo-1-s-0", "demo-1"], "the JobSet too, which may not be able to make its Jobs"
    assert asked(parse_pod(pod())) == ["demo-1-s-1"]
    assert asked(parse_pod(pod()), parse_pod(pod(slice_index=1))) == []
    assert asked(seconds=MISSING_SECONDS - 1) == []


@pytest.mark.parametrize("events", [None, []], ids=["may not be listed", "there are none"])
def test_without_events_the_state_of_the_pod_is_reported(events: list[dict[str, Any]] | None) -> None:
    cluster = SimulatedCluster(run())
    cluster.settle()
    hang(cluster)
    cluster.api.events = events
    settle_messages(cluster)
    assert ready(cluster)["message"].endswith(
        "a volume, its network or its image is missing: `kubectl describe pod demo-1-s-0-0-abcde` names the cause"
    )


@pytest.mark.parametrize(
    "other",
    [
        event(type="Normal"),
        event(uid="another"),
        event(at=99),
        event("two words"),
        event("<script>"),
        event("x" * 65),
        event(message=""),
        event(message=["x"]),
        event(lastTimestamp="yesterday"),
    ],
    ids=[
        "normal",
        "of another pod",
        "before it had its node",
        "two words",
        "markup",
        "long",
        "no text",
        "a list",
        "no time",
    ],
)
def test_events_that_are_no_warning_about_the_pod_are_ignored(other: dict[str, Any]) -> None:
    assert newest_warning(POD, [other]) is None
    newest = newest_warning(POD, [other, event("FailedMount", "a volume", at=150)])
    assert newest is not None
    assert (newest.reason, newest.message) == ("FailedMount", "a volume")


def test_the_time_of_an_event_is_when_it_was_seen_last() -> None:
    series = event("InSeries", "again", at=0, series={"lastObservedTime": rfc(400)})
    new = event("New", "of the new kind", lastTimestamp=None, eventTime=rfc(300))
    bare = event("Bare", "created", lastTimestamp=None, metadata={"creationTimestamp": rfc(350)})
    found = [newest_warning(POD, events) for events in ([new, event()], [new, bare], [bare, series, new])]
    assert [one.reason for one in found if one is not None] == ["New", "Bare", "InSeries"]


def test_a_message_is_cleaned_and_cut() -> None:
    sentence = "failed to pull\x1b[31m\n https://user:password@registry/v2?X-Amz-Signature=abc&b=c " + "x" * 5000
    found = newest_warning(POD, [event(message=sentence)])
    assert found is not None
    assert found.message.startswith("failed to pull [31m https://…@registry/v2?… xxx")
    assert len(found.message) == MAX_MESSAGE + 1


@given(junk=JUNK)
def test_malformed_events_are_ignored(junk: Any) -> None:
    spoilt = [
        junk,
        {**event(), "message": junk},
        {**event(), "involvedObject": junk},
        {**event(), "lastTimestamp": junk, "series": junk},
    ]
    found = newest_warning(POD, spoilt)
    assert found is None or found.reason == "FailedMount"


class Events:
    """Lists events once the test allows it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0
        self.go = asyncio.Event()
        self.refuses = False

    async def warnings(self, namespace: str, uid: str) -> Sequence[object]:
        self.asked.append(uid)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await self.go.wait()
        finally:
            self.at_once -= 1
        if self.refuses:
            raise ApiError(403, "Forbidden", "no")
        return [event()]


async def rounds() -> None:
    for _ in range(200):
        await asyncio.sleep(0)


def test_a_reconciliation_never_waits_for_events_and_requests_them_once_a_minute() -> None:
    async def story() -> None:
        events, now, changed = Events(), [0.0], []
        reads = PodEvents(events, changed.append, lambda: at(1000), lambda: now[0])
        key = ("default", "demo")
        for _ in range(3):
            assert reads.of(key, [late()], JOB_SET, STATUS) is None
            await rounds()
        assert events.asked == [UID]
        events.go.set()
        await rounds()
        assert changed == [key]
        for now[0] in (1.0, PAUSE_SECONDS - 1, PAUSE_SECONDS, PAUSE_SECONDS + 1):
            found = reads.of(key, [late()], JOB_SET, STATUS)
            assert found is not None
            await rounds()
        assert events.asked == [UID] * 2
        assert changed == [key], "there was no change to report"
        events.refuses = True
        now[0] += PAUSE_SECONDS
        reads.of(key, [late()], JOB_SET, STATUS)
        await rounds()
        assert reads.of(key, [late()], JOB_SET, STATUS) is None, (
            "events that cannot be read any more must not be reported for ever"
        )
        await reads.close()

    asyncio.run(story())


def test_events_are_requested_only_for_the_first_late_pod_of_a_run() -> None:
    async def story() -> None:
        events = Events()
        events.go.set()
        reads = PodEvents(events, lambda key: None, lambda: at(1000), lambda: 0.0)
        reads.of(
            ("default", "demo"),
            [late(uid="b", process=(0, 1)), late(), late(uid="c", running=True, process=(0, 0))],
            JOB_SET,
            STATUS,
        )
        reads.of(
            ("default", "other"), [late(uid="not,yet=late"), late(uid="late", scheduled_at=at(900))], JOB_SET, STATUS
        )
        await rounds()
        assert events.asked == [UID]

    asyncio.run(story())


def test_the_number_of_requests_at_a_time_is_limited() -> None:
    async def story() -> None:
        events = Events()
        reads = PodEvents(events, lambda key: None, lambda: at(1000), lambda: 0.0)
        for number in range(100):
            reads.of(("default", f"run-{number}"), [late(uid=f"pod-{number}")], JOB_SET, STATUS)
        await rounds()
        assert events.at_once == MAX_AT_ONCE
        events.go.set()
        await rounds()
        assert (len(events.asked), events.most_at_once) == (100, MAX_AT_ONCE)
        await reads.close()

    asyncio.run(story())
