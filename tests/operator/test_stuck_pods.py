"""A pod that hangs is reported with the fix.

One that does not end is force-deleted only if the operator's owner allows it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.tell.conditions import DEGRADED_REASONS, MAX_MESSAGE
from halcyon_operator.kube.cluster import Cluster
from halcyon_operator.model.decision import Decision, Deletion
from halcyon_operator.observe.memory import SeenDeletions
from halcyon_operator.observe.pods import parse_pod
from tests.operator.builders import at, deleted, ended, head, jobset, observed, pod, report, rfc, run, settings_of

GRACE = 30
STATUS = {"attempt": 1, "jobSetName": "demo-1", "jobSetUid": "jobset-1", "rootAttempt": 1}


def verdict(decision: Decision, kind: str) -> tuple[str, str, str]:
    assert decision.status is not None
    found = decision.status.condition(kind)
    assert found is not None
    return found.status, found.reason, found.message


POD = "pod-1-0-0-0"


def dying(seconds: float, doomed: dict[str, Any] | None = None) -> Any:
    """A run whose JobSet is in deletion, and whose only pod got its signal at second 100, which the operator has seen
    for some seconds.
    """
    pods = [doomed or deleted(pod(), 100, GRACE)]
    return observed(
        run(STATUS), jobsets=[jobset(deleting=True)], pods=pods, head=head(5), deleting_seconds={POD: seconds}
    )


def test_a_pod_that_ends_in_time_is_not_reported() -> None:
    decision = reconcile(dying(GRACE + 299), at(100 + GRACE + 299))
    assert verdict(decision, "Degraded")[0] == "False"
    assert verdict(decision, "Ready")[1] == "Restarting"


def test_a_stuck_pod_is_reported_with_its_node_and_the_fix() -> None:
    decision = reconcile(dying(GRACE + 300), at(100 + GRACE + 300))
    truth, reason, message = verdict(decision, "Degraded")
    assert (truth, reason) == ("True", "PodStuckTerminating")
    assert message == (
        f"pod demo-1-s-0-0-abcde on node node-a should have ended by {rfc(100 + GRACE)} and is still there; if the "
        "node is gone, delete the pod (`kubectl delete pod demo-1-s-0-0-abcde --namespace default --force "
        "--grace-period=0`) or taint the node (`kubectl taint node node-a "
        "node.kubernetes.io/out-of-service=gone:NoExecute`)"
    )
    assert verdict(decision, "Ready") == ("False", "PodStuckTerminating", message)
    assert verdict(decision, "Stalled")[0] == "False", "once the pod is deleted the run resumes without help"
    assert decision.delete == ()
    assert verdict(reconcile(dying(100_000), at(100_000)), "Ready")[2] == message, (
        "the message must stay the same, so that it is written only once"
    )


def test_the_owner_sets_the_time_after_which_a_pod_is_stuck() -> None:
    early = replace(dying(GRACE + 10), settings=settings_of(stuckPods={"afterSeconds": 10}))
    assert verdict(reconcile(early, at(100 + GRACE + 10)), "Ready")[1] == "PodStuckTerminating"
    late = replace(dying(GRACE + 3599), settings=settings_of(stuckPods={"afterSeconds": 3600}))
    assert verdict(reconcile(late, at(100 + GRACE + 3599)), "Ready")[1] == "Restarting"


CONSENT = settings_of(stuckPods={"forceDelete": True})


def test_a_clock_that_is_ahead_kills_no_pod_inside_its_grace_period() -> None:
    """The time in the pod is the API server's.

    The operator measures the wait itself, from when it first saw the deletion.
    """
    early = replace(dying(5), settings=CONSENT)
    for ahead in (420, 100_000):
        decision = reconcile(early, at(105 + ahead))
        assert not any(deletion.force for deletion in decision.delete)
        assert verdict(decision, "Ready")[1] == "Restarting"
    now = [0.0]
    seen = SeenDeletions(lambda: now[0])
    pods = [*dying(0).pods, parse_pod(pod(slice_index=1))]
    assert seen.seconds(("default", "demo"), pods) == {POD: 0.0}
    now[0] = 40.0
    assert seen.seconds(("default", "demo"), pods) == {POD: 40.0}
    assert seen.seconds(("default", "other"), pods) == {POD: 0.0}
    assert seen.seconds(("default", "demo"), []) == {}
    assert seen.seconds(("default", "demo"), pods) == {POD: 0.0}, (
        "another pod of this uid cannot be, and a pod that is gone is forgotten"
    )


@pytest.mark.parametrize("phase", ["Running", "Failed"])
def test_a_finalizer_that_keeps_a_pod_is_named_and_not_forced(phase: str) -> None:
    kept = deleted(pod(phase=phase), 100, GRACE)
    kept["metadata"]["finalizers"] = ["batch.kubernetes.io/job-tracking", "example.com/billing"]
    decision = reconcile(replace(dying(GRACE + 300, kept), settings=CONSENT), at(100 + GRACE + 300))
    truth, reason, message = verdict(decision, "Degraded")
    assert (truth, reason) == ("True", "PodStuckTerminating")
    assert (
        "; its finalizer example.com/billing keeps it: mend the controller that set it, or remove it (`kubectl patch "
        "pod " in message
    )
    assert decision.delete == (), "a deletion by force does not remove a finalizer"


def test_a_stuck_pod_is_force_deleted_if_the_owner_allows_it() -> None:
    assert reconcile(replace(dying(GRACE + 299), settings=CONSENT), at(100 + GRACE + 299)).delete == ()
    decision = reconcile(replace(dying(GRACE + 300), settings=CONSENT), at(100 + GRACE + 300))
    assert decision.delete == (Deletion("Pod", "demo-1-s-0-0-abcde", "pod-1-0-0-0", force=True),)
    assert verdict(decision, "Ready")[2].endswith("; the operator deletes it by force, as its owner allows")
    assert "PodForceDeleted" in [event.reason for event in decision.events if event.type == "Warning"]


@pytest.mark.parametrize("status", [{}, {"phase": "Failed"}], ids=["not deleted", "ended"])
def test_only_a_stuck_pod_is_force_deleted(status: dict[str, Any]) -> None:
    pods = [deleted(pod(**status), 100, GRACE)] if status else [pod()]
    seen = observed(
        run(STATUS), jobsets=[jobset(deleting=True)], pods=pods, head=head(5), deleting_seconds={POD: 100_000.0}
    )
    decision = reconcile(replace(seen, settings=CONSENT), at(100_000))
    assert not any(deletion.force for deletion in decision.delete)


def test_a_stuck_pod_of_an_earlier_run_is_reported_and_not_deleted() -> None:
    """The operator deletes only objects that the run made."""
    seen = observed(run(), head=head(5))
    theirs = observed(run(STATUS), pods=[deleted(pod(), 100, GRACE)]).pods
    seen = replace(seen, earlier_pods=theirs, settings=CONSENT, deleting_seconds={POD: GRACE + 300.0})
    decision = reconcile(seen, at(100 + GRACE + 300))
    assert verdict(decision, "Ready")[1] == "PodStuckTerminating"
    assert decision.delete == ()


def test_a_run_that_trains_despite_a_stuck_pod_is_reported_as_running() -> None:
    """The old pod hangs, but the new process group has started."""
    history = [{"attempt": 1, "restart": 1, "startedAt": rfc(150), "firstStepAt": rfc(160), "fromStep": 0}]
    seen = observed(
        run({**STATUS, "jobSetRestarts": 1, "history": history, "phase": "Running"}),
        jobsets=[jobset(restarts=1, in_place=False)],
        pods=[deleted(pod(), 100, GRACE), pod(restart=1)],
        head=head(5),
        report=report(restart=1),
        deleting_seconds={POD: 1000.0},
    )
    assert verdict(reconcile(seen, at(1000)), "Ready")[1] == "Running"


def test_a_forced_deletion_has_a_grace_period_of_zero() -> None:
    bodies: list[dict[str, Any]] = []

    class Api:
        async def request(self, method: str, path: str, resource: str, **more: Any) -> dict[str, Any]:
            bodies.append(more["body"])
            return {}

    for force in (False, True):
        asyncio.run(Cluster(Api()).delete("default", Deletion("Pod", "p", "uid", force=force)))  # type: ignore[arg-type]
    assert [body.get("gracePeriodSeconds") for body in bodies] == [None, 0]
    assert all(body["preconditions"] == {"uid": "uid"} for body in bodies)


# Pods that do not start


def waiting(
    reason: str = "ContainerCreating", message: str = "", *, sandbox: str | None = None, scheduled: float = 100
) -> dict[str, Any]:
    conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": rfc(scheduled)}]
    if sandbox is not None:
        conditions.append(
            {"type": "PodReadyToStartContainers", "status": sandbox, "lastTransitionTime": rfc(scheduled)}
        )
    state = {"waiting": {"reason": reason, "message": message}} if reason else {}
    return pod(phase="Pending", conditions=conditions, containerStatuses=[{"name": "trainer", "state": state}])


def starts(*pods: dict[str, Any], seconds: float) -> tuple[str, str, str]:
    decision = reconcile(observed(run(STATUS), jobsets=[jobset()], pods=[*pods], head=head(5)), at(seconds))
    assert decision.status is not None
    assert verdict(decision, "Degraded")[0] == (
        "True" if verdict(decision, "Ready")[1] in DEGRADED_REASONS else "False"
    )
    return verdict(decision, "Ready")


def test_a_pod_has_five_minutes_to_start() -> None:
    assert starts(waiting(), seconds=399)[1] == "Starting"
    truth, reason, message = starts(waiting(), seconds=400)
    assert (truth, reason) == ("False", "PodsNotStarting")
    assert message.startswith(
        f"attempt 1: pod demo-1-s-0-0-abcde on node node-a has not started since {rfc(100)}: ContainerCreating; "
    )


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (
            waiting(sandbox="False"),
            "its volumes are not mounted, or its network is not there (FailedMount, FailedCreatePodSandBox)",
        ),
        (waiting(sandbox="True"), "its volumes and its network are there, and its image is not"),
        (waiting("PodInitializing", sandbox="True"), "PodInitializing; its volumes and its network are there"),
        (waiting(), "a volume, its network or its image is missing"),
        (waiting("SomethingNew"), "SomethingNew; `kubectl describe pod demo-1-s-0-0-abcde` names the cause"),
        (waiting("", sandbox="False"), "no reason is given; its volumes are not mounted"),
    ],
)
def test_the_reason_of_a_late_start_is_reported(document: dict[str, Any], sentence: str) -> None:
    assert sentence in starts(document, seconds=1000)[2]


def test_a_known_reason_is_reported_at_once() -> None:
    assert starts(waiting("ErrImagePull", "no such image"), seconds=101)[1] == "ImagePullFailed"
    assert {"ImagePullFailed", "ContainerConfigInvalid", "CreateRefused"} <= set(DEGRADED_REASONS)


def behind(state: dict[str, Any], *, always: bool = False, started: bool = False) -> dict[str, Any]:
    """A pod whose trainer waits for an init container in a state."""
    document = waiting("PodInitializing")
    document["spec"]["initContainers"] = [{"name": "agent", **({"restartPolicy": "Always"} if always else {})}]
    document["status"]["initContainerStatuses"] = [{"name": "agent", "state": state, "started": started}]
    return document


@pytest.mark.parametrize(
    ("document", "seconds", "reason", "sentence"),
    [
        (
            behind({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}, always=True),
            101,
            "ImagePullFailed",
            "does not start, ImagePullBackOff of init container agent: no such image",
        ),
        (
            behind({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}, always=True),
            101,
            "ContainerConfigInvalid",
            "does not start, CrashLoopBackOff of init container agent: back-off 10s",
        ),
        (behind({"running": {}}, started=True), 1000, "PodsNotStarting", "PodInitializing of init container agent; "),
        (behind({"running": {}}, always=True), 1000, "PodsNotStarting", "PodInitializing of init container agent; "),
        (
            behind({"running": {}}, always=True, started=True),
            1000,
            "PodsNotStarting",
            "PodInitializing; a volume, its network or its image is missing",
        ),
        (
            behind({"terminated": {"exitCode": 0}}),
            1000,
            "PodsNotStarting",
            "PodInitializing; a volume, its network or its image is missing",
        ),
    ],
    ids=["image", "crashes", "runs on", "is not started", "is started", "is done"],
)
def test_the_init_container_that_a_pod_waits_for_is_named(
    document: dict[str, Any], seconds: float, reason: str, sentence: str
) -> None:
    found = starts(document, seconds=seconds)
    assert found[1] == reason
    assert sentence in found[2]


def test_an_end_that_the_jobset_controller_does_not_answer_is_reported() -> None:
    def after(seconds: float, *pods: dict[str, Any]) -> tuple[str, str, str]:
        seen = observed(run(STATUS), jobsets=[jobset()], pods=[*pods], head=head(5))
        return verdict(reconcile(seen, at(seconds)), "Ready")

    crashed = pod(**ended(1, 100))
    assert after(159, crashed)[1] == "Restarting"
    assert after(1000, crashed, pod(slice_index=1))[1] == "Restarting", "it waits for the end of the other pod"
    _, reason, message = after(160, crashed)
    assert reason == "JobSetControllerSilent"
    assert message.endswith("the JobSet controller does not answer; check the deployment jobset-controller-manager")


@pytest.mark.parametrize("reason", ["<script>", "x" * 65, "two words", "a\nb", "ä"])
def test_foreign_text_stays_out_of_the_status(reason: str) -> None:
    message = starts(waiting(reason, "secret " * 1000), seconds=1000)[2]
    assert "no reason is given" in message or reason.startswith("x")
    assert "secret" not in message
    assert "<" not in message
    assert len(message) < MAX_MESSAGE / 4


@pytest.mark.parametrize(
    ("what", "until", "sentence"),
    [
        (
            "checkpointRoot",
            rfc(400),
            f"the trainer retries the store of its checkpoint root, which denies access until {rfc(400)}",
        ),
        (
            "dataSource",
            rfc(400),
            f"the trainer retries the store of its data, which denies access or does not answer until {rfc(400)}",
        ),
        ("tokenCache", "<some text>", "the trainer retries the store of its token caches, which denies access"),
    ],
)
def test_a_trainer_that_waits_for_a_store_is_reported(what: str, until: str, sentence: str) -> None:
    waits = report(first=None, stage="restoring", waiting={"what": what, "until": until})
    seen = observed(run(STATUS), jobsets=[jobset()], pods=[pod(), pod(slice_index=1)], head=head(5), report=waits)
    assert verdict(reconcile(seen, at(100)), "Ready")[2] == f"attempt 1: {sentence}"


def test_pods_that_run_are_not_late() -> None:
    assert starts(pod(), seconds=100_000)[1] == "Starting"
