"""Restarts in place: how the ends of processes that started again in their pods are counted, and how a lost pod is
replaced alone.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from halcyon_api.ends import ExitCode
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.kube.client import ApiError, KubernetesApi
from halcyon_operator.kube.cluster import Cluster
from halcyon_operator.model.decision import Deletion
from halcyon_operator.observe.reports import parse_report
from tests.document_changes import changed
from tests.operator.builders import at, deleted, disrupted, ended, jobset, observed, pod, report, rfc, run, termination
from tests.operator.test_follow import BASE, ENTRY, after
from tests.operator.training import messages

MESH = {"replica": 2, "data": 1, "fsdp": 1, "tensor": 1}
TWO = BASE | {"topology": {"slices": 2, "hosts": 2, "devices": 2, "mesh": MESH}}
PODS = [pod(), pod(slice_index=1)]


def again(
    number: int = 1, code: int | None = 137, process: int = 1, seconds: float = 30, **more: Any
) -> dict[str, Any]:
    """An end in place, as a report has it."""
    return {"number": number, "process": process, "at": rfc(seconds), "exitCode": code, **more}


def heard(*ends: dict[str, Any], **more: Any) -> Any:
    newest = max((end["number"] for end in ends), default=0)
    return report(step=42, resumed=40, first=35, inPlace=newest, endsInPlace=list(ends), **more)


def replaced(old: dict[str, Any]) -> dict[str, Any]:
    """The pod that replaces another one."""
    new = pod(slice_index=1)
    new["metadata"] |= {"name": "demo-1-s-1-0-fghij", "uid": "new", "creationTimestamp": rfc(25)}
    old["metadata"]["creationTimestamp"] = rfc(0)
    return new


def test_an_end_in_place_is_counted_and_begins_an_entry_of_the_same_process_group() -> None:
    change = after(TWO, pods=PODS, report=heard(again()))
    first, second = change.status.history
    assert (first.cause, first.ended_at, first.to_step) == ("failed", rfc(30), 40)
    assert first.message == "pod demo-1-s-1-0-abcde ended with exit code 137"
    assert (second.attempt, second.restart, second.in_place, second.started_at) == (1, 0, 1, rfc(30))
    assert (second.from_step, second.first_step_at) == (40, rfc(35))
    restarts = change.status.restarts
    assert (restarts.total, restarts.failed, restarts.in_place) == (1, 1, 1)
    assert change.status.failures_without_checkpoint == 1
    assert messages(change, "TrainerFailed") == [
        "Attempt 1, restart 0 ended after step 40: pod demo-1-s-1-0-abcde ended with exit code 137; restarting"
    ]
    assert messages(change, "Resumed") == ["Attempt 1, restart 0, in place 1 goes on from step 40"]


def test_the_steps_that_only_the_others_reported_are_done() -> None:
    assert after(TWO, pods=PODS, report=heard(again(step=48))).status.history[0].to_step == 48


def test_an_end_in_place_is_counted_once_whoever_observes_it() -> None:
    first = after(TWO, pods=PODS, report=heard(again())).status
    second = after(first.document(), pods=PODS, report=heard(again()))
    assert (second.status.restarts, second.status.history, second.events) == (first.restarts, first.history, ())
    third = after(first.document(), pods=PODS, report=heard(again(), again(2, 139, 0, 50))).status
    assert [(entry.in_place, entry.cause) for entry in third.history] == [(0, "failed"), (1, "failed"), (2, None)]
    assert (third.restarts.total, third.restarts.in_place, third.failures_without_checkpoint) == (2, 2, 2)


def test_ends_that_only_the_last_reports_of_pods_have_are_counted_before_the_restart_of_the_jobset() -> None:
    left = termination("failed", 1, endsInPlace=[again()])
    gone = [pod(**ended(1, 50, left)), pod(slice_index=1, **ended(1, 51, left))]
    for known in (None, heard(again())):
        before = TWO if known is None else after(TWO, pods=PODS, report=known).status.document()
        change = after(before, restarts=1, counted=1, gone=gone)
        found = [(entry.restart, entry.in_place, entry.cause) for entry in change.status.history]
        assert found == [(0, 0, "failed"), (0, 1, "failed"), (1, 0, None)]
        restarts = change.status.restarts
        assert (restarts.failed, restarts.in_place, restarts.total) == (2, 1, 2)
        assert change.status.failures_without_checkpoint == 2


@pytest.mark.parametrize(("code", "cause"), [(137, "failed"), (42, "preempted")])
@pytest.mark.parametrize("last", [43, 1])
def test_pods_that_have_replaced_all_others_end_by_the_cause_of_those(code: int, cause: str, last: int) -> None:
    left, gone = termination("notRejoined", last), []
    for number in range(2):
        old, new = pod(slice_index=number, **ended(code, 50)), pod(slice_index=number, **ended(last, 58, left))
        new["metadata"] |= {"name": f"demo-1-s-{number}-0-fghij", "uid": f"new-{number}", "creationTimestamp": rfc(55)}
        gone += [old, new]
    change = after(TWO, restarts=1, counted=int(last == 1), gone=gone)
    assert [(entry.restart, entry.cause) for entry in change.status.history] == [(0, cause), (1, None)]
    assert change.status.restarts.total == 1
    assert change.status.failures_without_checkpoint == int(cause == "failed")


def test_ends_that_the_report_does_not_have_any_more_are_counted() -> None:
    status = after(TWO, pods=PODS, report=heard(again(20), again(21, 42))).status
    assert (status.restarts.failed, status.restarts.preempted, status.restarts.in_place) == (20, 1, 21)
    assert status.failures_without_checkpoint == 1


@pytest.mark.parametrize(
    ("found", "cause", "message"),
    [
        (again(code=1, report=None), "failed", "pod demo-1-s-1-0-abcde ended with exit code 1"),
        (
            again(code=1, report={"cause": "hung", "exitCode": 1, "message": "no step", "time": rfc(29)}),
            "hung",
            "no step (pod demo-1-s-1-0-abcde, exit code 1)",
        ),
        (again(code=42), "preempted", "pod demo-1-s-1-0-abcde ended with exit code 42"),
        (again(code=None), "failed", "pod demo-1-s-1-0-abcde ended with no exit code"),
        (
            again(code=None, podLost=True),
            "preempted",
            "the pod of process 1 was replaced while no operator looked",
        ),
    ],
)
def test_the_cause_of_an_end_in_place_comes_from_its_report_or_its_exit_code(
    found: dict[str, Any], cause: str, message: str
) -> None:
    entry = after(TWO, pods=PODS, report=heard(found)).status.history[0]
    assert (entry.cause, entry.message) == (cause, message)


@pytest.mark.parametrize(
    ("old", "cause"),
    [
        (deleted(pod(slice_index=1, **ended(42, 22)), 20), "podDeleted"),
        (pod(slice_index=1, **(ended(42, 22) | disrupted(20))), "preempted"),
        (pod(slice_index=1, **ended(137, 22)), "failed"),
    ],
)
@pytest.mark.parametrize("gone", [True, False], ids=["the pod is gone", "the pod is there"])
def test_the_cause_of_a_lost_pod_is_how_it_ended(old: dict[str, Any], cause: str, gone: bool) -> None:
    new, found = replaced(old), heard(again(code=None, podLost=True))
    pods = [pod(), new] if gone else [pod(), old, new]
    status = after(TWO, pods=pods, gone=[old], report=found).status
    assert (status.history[0].cause, status.restarts.in_place) == (cause, 1)
    assert "demo-1-s-1-0-abcde" in (status.history[0].message or "")


def test_the_others_that_saved_and_ended_with_a_pod_do_not_hide_its_end() -> None:
    old = deleted(pod(slice_index=1, **ended(42, 22)), 20)
    found = heard(again(code=ExitCode.PREEMPTED, process=0))
    status = after(TWO, pods=[pod(), replaced(old)], gone=[old], report=found).status
    assert status.history[0].cause == "podDeleted"


def test_an_end_in_place_blames_the_node_of_its_process() -> None:
    pods = [pod(), pod(slice_index=1)]
    for number, one in enumerate(pods):
        one["spec"] = {**one.get("spec", {}), "nodeName": f"node-{number}"}
    placement = after(TWO, pods=pods, report=heard(again())).status.placement
    assert [blame.node for blame in placement.blames] == ["node-1"]


def test_a_report_of_the_processes_before_does_not_count() -> None:
    status = after(TWO, pods=PODS, report=heard(again())).status.document()
    assert after(status, pods=PODS, report=report(step=99, resumed=0)).status.progress.step == 42


def test_an_end_of_another_process_group_does_not_count() -> None:
    status = after(TWO, pods=PODS, report=report(restart=1, inPlace=1, endsInPlace=[again()])).status
    assert [entry.in_place for entry in status.history] == [0]


def test_a_process_group_that_has_ended_gets_no_end_in_place() -> None:
    over = TWO | {"history": [ENTRY | {"endedAt": rfc(20), "cause": "preempted"}]}
    assert after(over, pods=PODS, report=heard(again())).status.restarts.in_place == 0


@pytest.mark.parametrize(
    "claim",
    [
        {"inPlace": 2**60},
        {"endsInPlace": [again(2**60)]},
        {
            "endsInPlace": [
                again(report={"cause": "failed", "exitCode": 1, "message": "", "step": 2**60, "time": rfc(9)})
            ]
        },
    ],
)
def test_impossible_numbers_of_ends_in_place_are_refused(claim: dict[str, Any]) -> None:
    body = report(**claim).model_dump_json(by_alias=True).encode()
    assert parse_report(body, "demo", (1, 0)).problem == "its report has numbers that are too large"  # type: ignore[arg-type]


IN_PLACE = jobset()


def reconciled(*pods: dict[str, Any], gone: list[Any] = [], now: float = 60, **status: Any) -> Any:  # noqa: B006
    seen = observed(run(TWO | status), jobsets=[IN_PLACE], pods=list(pods), gone=gone)
    return reconcile(seen, at(now))


def lost(code: int, **more: Any) -> dict[str, Any]:
    """The pod of process 1, which has ended."""
    return pod(slice_index=1, **(ended(code, 50) | more))


@pytest.mark.parametrize(
    "gone",
    [lost(42), lost(137), lost(1, **disrupted(49)), deleted(lost(42), 48)],
    ids=["after a save", "killed", "evicted", "deleted"],
)
def test_the_job_of_a_pod_that_is_replaced_alone_is_deleted(gone: dict[str, Any]) -> None:
    decision = reconciled(pod(), gone)
    assert [one for one in decision.delete if one.kind == "Job"] == [Deletion("Job", "demo-1-s-1", "job-1")]


def earlier(at_seconds: float) -> dict[str, Any]:
    """An earlier pod of process 1, which was lost."""
    old = pod(slice_index=1, **ended(42, at_seconds))
    old["metadata"] |= {"uid": "old", "name": "demo-1-s-1-0-older", "creationTimestamp": rfc(-900)}
    return old


@pytest.mark.parametrize(
    ("gone", "more"),
    [
        (lost(1), {}),
        (lost(43), {}),
        (lost(83), {}),
        (lost(83, **disrupted(49)), {}),
        (lost(137), {"failuresWithoutCheckpoint": 1}),
        (lost(42), {"gone": [earlier(-500)]}),
        (lost(0), {}),
        (deleted(pod(slice_index=1), 50), {}),
        (pod(slice_index=1), {}),
        (changed(lost(42), {"metadata.ownerReferences": []}), {}),
        (lost(42), {"topology": {"slices": 1, "hosts": 2, "devices": 2, "mesh": MESH}}),
        (pod(slice_index=1, phase="Failed", reason="OutOfmemory", startTime=rfc(50), containerStatuses=[]), {}),
    ],
    ids=[
        "a crash that the supervisor did not forgive",
        "not joined in time",
        "reserved exit code",
        "evicted, with a reserved exit code",
        "second failure without a checkpoint",
        "second pod of the process in ten minutes",
        "succeeded",
        "still saves",
        "runs",
        "without owner",
        "a slice of two hosts",
        "rejected by its node",
    ],
)
def test_no_other_job_is_deleted(gone: dict[str, Any], more: dict[str, Any]) -> None:
    assert not [one for one in reconciled(pod(), gone, **more).delete if one.kind == "Job"]


def test_a_process_whose_pod_was_replaced_long_ago_gets_another_one_at_once() -> None:
    decision = reconciled(pod(), lost(42), gone=[earlier(-600)])
    assert [one.name for one in decision.delete if one.kind == "Job"] == ["demo-1-s-1"]


def test_no_job_is_deleted_where_every_restart_replaces_all_pods() -> None:
    seen = observed(run(TWO), jobsets=[jobset(in_place=False)], pods=[pod(), lost(42)])
    assert not [one for one in reconcile(seen, at(60)).delete if one.kind == "Job"]


def test_the_other_pods_stay_when_one_is_deleted() -> None:
    decision = reconciled(pod(), deleted(pod(slice_index=1, **disrupted(50)), 50))
    assert decision.delete == ()


@pytest.mark.parametrize("code", [403, 404, 409, 422])
def test_a_deletion_of_a_job_that_is_refused_has_no_effect(code: int) -> None:
    """Rights of an older release: the Job then replaces the pod itself, later."""
    api = Refusing(code)
    asyncio.run(Cluster(cast("KubernetesApi", api)).delete("team", Deletion("Job", "demo-1-s-0", "job-0")))
    assert api.bodies == [{"propagationPolicy": "Background", "preconditions": {"uid": "job-0"}}]
    with pytest.raises(ApiError):
        asyncio.run(Cluster(cast("KubernetesApi", Refusing(0))).delete("team", Deletion("Job", "demo-1-s-0", "job-0")))


class Refusing:
    """An API server that refuses every request."""

    def __init__(self, code: int) -> None:
        self.code, self.bodies = code, list[dict[str, Any]]()

    async def request(self, method: str, path: str, *_: str, body: dict[str, Any], **__: Any) -> None:
        self.bodies.append(body)
        raise ApiError(self.code, "Refused", "")


STARTING = {"phase": "Pending", "containerStatuses": []}


@pytest.mark.parametrize(
    ("pods", "message"),
    [
        (
            [pod(), lost(137)],
            "pod demo-1-s-1-0-abcde ended with exit code 137: Error; pod demo-1-s-1-0-abcde is replaced; the others wait "
            "in their pods",
        ),
        ([pod()], "1 pod is replaced; the others wait in their pods"),
        (
            [pod(), pod(slice_index=1, **STARTING)],
            "pod demo-1-s-1-0-abcde is replaced; the others wait in their pods",
        ),
        (
            [pod(), deleted(pod(slice_index=1), 50)],
            "pod demo-1-s-1-0-abcde was deleted; pod demo-1-s-1-0-abcde is replaced; the others wait in their pods",
        ),
        ([pod(), lost(1)], "pod demo-1-s-1-0-abcde ended with exit code 1: Error; the JobSet starts the run again"),
    ],
    ids=["ended", "gone", "starting", "being deleted", "all pods are replaced"],
)
def test_a_run_whose_pod_is_replaced_says_so(pods: list[Any], message: str) -> None:
    ready = reconciled(*pods).status.condition("Ready")
    assert (ready.status, ready.reason, ready.message) == ("False", "Restarting", message)


def test_a_replaced_pod_that_does_not_start_says_why() -> None:
    waiting = [{"name": "trainer", "state": {"waiting": {"reason": "ErrImagePull", "message": "no such tag"}}}]
    ready = reconciled(pod(), pod(slice_index=1, phase="Pending", containerStatuses=waiting)).status.condition("Ready")
    assert ready.reason == "ImagePullFailed"


@pytest.mark.parametrize("phase", ["Running", "Succeeded"])
def test_a_pod_that_ends_after_the_last_step_is_not_replaced(phase: str) -> None:
    ending = lost(0)
    ending["status"]["phase"] = phase  # the kubelet reports the end of a container before that of its pod
    assert reconciled(pod(), ending).status.phase == "Running"


def test_a_pod_that_has_replaced_another_one_counts_in_its_place() -> None:
    old = deleted(lost(42), 48)
    decision = reconciled(pod(), old, replaced(old))
    assert decision.status.phase == "Running"
    assert not decision.delete
