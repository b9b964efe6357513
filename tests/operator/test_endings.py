"""The cause of a process group's end follows from what happened to its pods, for any order and any number of pods."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_operator.model.endings import conclude, merge_endings
from halcyon_operator.observe.pods import parse_pod
from tests.operator.builders import at, deleted, disrupted, ended, pod, rfc, termination

EVICTED = pod(1, 0, 1, **(ended(42, 12) | disrupted(10)))
EVICTED_RUNNING = pod(1, 0, 1, **disrupted(10))
SAVED = pod(1, 0, 0, **ended(42, 12))
CRASHED = pod(1, 0, 0, **ended(1, 11, "Traceback: boom"))
ECHO = pod(1, 0, 1, **ended(134, 11))
KILLED = pod(1, 0, 1, **ended(137, 11))
DELETED = deleted(pod(1, 0, 1, **ended(42, 12)), 10)
CLEANED_UP = deleted(pod(1, 0, 1, **ended(134, 12)), 12)
DONE = pod(1, 0, 0, **ended(0, 9))
CHANGED = pod(1, 0, 0, **ended(83, 11, termination("runChanged", 83, message="data differ", step=7)))


@pytest.mark.parametrize(
    ("pods", "cause", "sentence"),
    [
        (
            [EVICTED, SAVED],
            "preempted",
            "pod demo-1-s-1-0-abcde was disrupted: EvictionByEvictionAPI: Eviction API: evicting",
        ),
        ([EVICTED_RUNNING, CRASHED], "preempted", "was disrupted"),
        ([SAVED], "preempted", "exit code 42"),
        ([CRASHED, CLEANED_UP], "failed", "ended with exit code 1: Error: Traceback: boom"),
        ([KILLED, pod(1, 0, 0, **ended(1, 12))], "failed", "pod demo-1-s-1-0-abcde ended with exit code 137"),
        ([DELETED, SAVED], "podDeleted", "pod demo-1-s-1-0-abcde was deleted"),
        ([CHANGED, ECHO], "runChanged", "data differ (pod demo-1-s-0-0-abcde, exit code 83)"),
        ([DONE, KILLED], "failed", "exit code 137"),
        (
            [pod(1, 0, 0, phase="Failed", reason="OutOfcpu", message="no room", containerStatuses=[])],
            "rejected",
            "node node-a did not start pod demo-1-s-0-0-abcde: OutOfcpu: no room",
        ),
    ],
)
def test_the_earliest_disruption_or_failure_is_the_cause(pods: list[dict], cause: str, sentence: str) -> None:
    for order in (pods, pods[::-1]):
        end = conclude([parse_pod(item).ending for item in order], (1, 0))
        assert end is not None
        assert end.cause == cause
        assert sentence in end.message


LOST = {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": "The container could not be located"}


def failed(reason: str = "", *, state: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    """A pod that failed 10 s after the start of its group, as the kubelet writes it."""
    containers = [] if state is None else [{"name": "trainer", "state": state}]
    times = {"startTime": rfc(10)} if not containers else {"startTime": rfc(0)}
    return pod(1, 0, 1, **(times | {"phase": "Failed", "reason": reason, "containerStatuses": containers} | status))


def terminated(code: int, reason: str, finished: float | None = 10) -> dict[str, Any]:
    times = {} if finished is None else {"finishedAt": rfc(finished)}
    return {"terminated": {"exitCode": code, "reason": reason, **times}}


UNREADY = {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": rfc(10)}]}
REJECTIONS = (
    "OutOfmemory",
    "OutOfnvidia.com/gpu",
    "UnexpectedAdmissionError",
    "NodeAffinity",
    "NodeShutdown",
    "NodePorts",
    "Preempting",
    "Evicted",
)


@pytest.mark.parametrize(
    ("document", "cause"),
    [
        *((failed(reason), "rejected") for reason in REJECTIONS),
        *((failed(reason, state={"waiting": {"reason": "PodInitializing"}}), "rejected") for reason in REJECTIONS),
        (failed(state=terminated(128, "StartError")), "rejected"),
        (failed(state=terminated(128, "ContainerCannotRun")), "rejected"),
        (failed(state=terminated(128, "CreateContainerConfigError")), "rejected"),
        (failed(state=terminated(137, "ContainerStatusUnknown", None), **UNREADY), "preempted"),
        (failed(state={"terminated": LOST}), "preempted"),
        (failed(state=terminated(255, "Unknown")), "preempted"),
        (failed("Terminated", state=terminated(137, "Error")), "preempted"),
        (failed("NodeShutdown", state=terminated(143, "Error", None), **UNREADY), "preempted"),
        (failed("UnexpectedAdmissionError", state=terminated(137, "ContainerStatusUnknown", None)), "preempted"),
        (failed("Evicted", state=terminated(137, "Error")), "evicted"),
        (failed("DeadlineExceeded", state=terminated(137, "Error")), "failed"),
        (failed(state=terminated(137, "OOMKilled")), "failed"),
        (failed(state=terminated(137, "Error")), "failed"),
        (failed(state=terminated(255, "Error")), "failed"),
        (failed(state=terminated(128, "Error")), "failed"),
        (failed(state=terminated(1, "Error", None), **UNREADY), "failed"),
        (failed(), "failed"),
    ],
)
@pytest.mark.parametrize("seconds", [10, 11])
def test_the_end_that_the_node_made_is_not_the_programs_nor_a_users(
    document: dict[str, Any], cause: str, seconds: float
) -> None:
    """The JobSet deletes all pods of the group afterwards, at the earliest in the same second.

    A process may crash in the second of a user's deletion too, so for a crash the deletion comes later here.
    """
    if cause in ("failed", "evicted"):
        seconds = 11
    peer = deleted(pod(1, 0, 0, **ended(143, 12)), seconds)
    seen_first = parse_pod(document).ending
    later = parse_pod(deleted(document, seconds)).ending
    assert seen_first is not None
    assert later is not None
    end = conclude([*merge_endings([seen_first], [later]), *endings(deleted(peer, 11))], (1, 0))
    assert end is not None
    assert end.cause == cause


@pytest.mark.parametrize("reason", REJECTIONS)
def test_a_rejection_that_is_first_seen_after_its_clean_up_is_still_the_first_trouble(reason: str) -> None:
    pods = [deleted(failed(reason), 11), deleted(pod(1, 0, 0, **ended(143, 12)), 10)]
    for order in (pods, pods[::-1]):
        end = conclude(endings(*order), (1, 0))
        assert end.cause == "rejected"
        assert end.message.startswith(f"node node-a did not start pod demo-1-s-1-0-abcde: {reason}")


def test_a_pod_that_was_deleted_before_it_began_is_a_users_deletion() -> None:
    """The kubelet writes the same reason as for a container that it lost, and no time."""
    assert conclude(endings(deleted(failed(state={"terminated": LOST}), 10)), (1, 0)).cause == "podDeleted"


def test_the_init_container_that_failed_is_named() -> None:
    document = failed(state={"waiting": {"reason": "PodInitializing"}})
    document["status"]["initContainerStatuses"] = [{"name": "agent", "state": terminated(3, "Error")}]
    end = conclude(endings(document), (1, 0))
    assert (end.cause, end.at) == ("failed", at(10))
    assert end.message.endswith("ended with no exit code: init container agent: Error")


STORAGE = "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi."


def test_an_eviction_for_what_the_pod_used_is_a_failure_although_the_trainer_saved() -> None:
    """The kubelet sets no condition DisruptionTarget then, and the trainer ends as after any other notice."""
    left = termination("preempted", 42, step=7, message="saved step 7")
    evicted = pod(1, 0, 1, **(ended(42, 12, left) | {"reason": "Evicted", "message": STORAGE}))
    for pods in ([evicted, pod(1, 0, 0, **ended(42, 11, left))], [pod(1, 0, 0, **ended(42, 13, left)), evicted]):
        end = conclude(endings(*pods), (1, 0))
        assert (end.cause, end.message) == (
            "evicted",
            f"pod {evicted['metadata']['name']} was evicted by its node: {STORAGE}; saved step 7",
        )
    disrupted_too = pod(
        1,
        0,
        0,
        **(ended(42, 12, left) | disrupted(10) | {"reason": "Evicted", "message": "The node was low on memory."}),
    )
    assert conclude(endings(disrupted_too), (1, 0)).cause == "preempted", (
        "the node had too little for all, which is not the run's fault"
    )
    refused = pod(1, 0, 0, **(ended(83, 12) | {"reason": "Evicted", "message": STORAGE}))
    assert conclude(endings(refused), (1, 0)).cause == "runChanged", "a reserved exit code stops the run"


def test_causes_in_the_same_second_are_ranked_by_which_explains_the_other() -> None:
    evicted, deleted_too = pod(1, 0, 1, **(ended(42, 10) | disrupted(10))), deleted(pod(1, 0, 0, **ended(1, 10)), 10)
    assert conclude(endings(deleted_too, evicted), (1, 0)).cause == "preempted"
    crash, fatal = pod(1, 0, 1, **ended(134, 10)), pod(1, 0, 0, **ended(83, 10))
    assert conclude(endings(crash, fatal), (1, 0)).cause == "runChanged"
    assert conclude(endings(crash, pod(1, 0, 0, **ended(42, 10))), (1, 0)).cause == "preempted"


def test_no_cause_is_concluded_from_successful_ends_or_other_process_groups() -> None:
    assert conclude(endings(DONE, pod(1, 0, 1)), (1, 0)) is None
    assert conclude(endings(CRASHED), (1, 1)) is None


def test_a_reserved_exit_code_is_found_behind_an_earlier_secondary_failure() -> None:
    late = pod(1, 0, 0, **ended(83, 15))
    assert conclude(endings(ECHO, late), (1, 0)).cause == "failed"
    assert conclude(endings(ECHO, late), (1, 0), refused=True).cause == "runChanged"
    assert conclude(endings(ECHO), (1, 0), refused=True).cause == "failed"


def test_a_disruption_after_the_process_ended_is_not_the_cause() -> None:
    assert conclude(endings(pod(1, 0, 0, **(ended(1, 5) | disrupted(10)))), (1, 0)).cause == "failed"


def test_the_message_of_a_preemption_includes_the_result_of_the_save() -> None:
    words = {
        index: termination("preempted", 42, message=f"sentence {index}", saved="inFlight", processIndex=index)
        for index in range(2)
    }
    evicted = pod(1, 0, 1, **(ended(42, 12, words[1]) | disrupted(10)))
    leader = pod(1, 0, 0, **ended(42, 12, words[0]))
    message = "pod demo-1-s-1-0-abcde was disrupted: EvictionByEvictionAPI: Eviction API: evicting; sentence 0"
    assert conclude(endings(evicted, leader), (1, 0)).message == message
    assert conclude(endings(evicted), (1, 0)).message == message.replace("sentence 0", "sentence 1")
    assert conclude(endings(leader), (1, 0)).message == "sentence 0 (pod demo-1-s-0-0-abcde, exit code 42)"


def test_a_hung_process_is_the_cause_and_not_the_peers_that_ended_because_of_it() -> None:
    hung = pod(1, 0, 1, **ended(1, 10, termination("hung", 1, message="no step ended for 61.0 s; stacks in s3://b/x")))
    peer = pod(
        1,
        0,
        0,
        **ended(1, 10, termination("failed", 1, message="process 1 is gone, so this one ended too", peerLost=1)),
    )
    end = conclude(endings(peer, hung), (1, 0))
    assert (end.cause, end.message) == (
        "hung",
        "no step ended for 61.0 s; stacks in s3://b/x (pod demo-1-s-1-0-abcde, exit code 1)",
    )
    assert (
        conclude(endings(pod(1, 0, 0, **ended(86, 10, termination("diverged", 86)))), (1, 0), refused=True).cause
        == "diverged"
    )


@pytest.mark.parametrize("echo", [{"peerLost": 1}, {"othersMissing": True}])
def test_a_process_that_ended_because_of_a_peer_is_not_the_cause_even_with_a_slow_clock(echo: dict[str, Any]) -> None:
    crashed = pod(1, 0, 1, **ended(1, 12, termination("failed", 1, message="boom")))
    peer = pod(1, 0, 0, **ended(1, 10, termination("failed", 1, message="any words", **echo)))
    end = conclude(endings(peer, crashed), (1, 0))
    assert end is not None
    assert (end.cause, end.message) == ("failed", "boom (pod demo-1-s-1-0-abcde, exit code 1)")
    alone = conclude(endings(peer), (1, 0))
    assert alone is not None
    assert alone.message.startswith("any words"), "if nothing else was seen, this message must be used"


def test_step_and_epoch_come_from_any_report_of_the_process_group() -> None:
    fenced = pod(1, 0, 0, **ended(81, 11, termination("fenced", 81, step=40, epochAttempt=7)))
    end = conclude(endings(fenced, pod(1, 0, 1, **ended(1, 12, termination("failed", 1, step=41)))), (1, 0))
    assert (end.cause, end.step, end.epoch_attempt) == ("fenced", 41, 7)


@pytest.mark.parametrize("claim", ["step", "checkpointStep", "epochAttempt"])
def test_impossible_numbers_in_a_report_are_ignored(claim: str) -> None:
    end = conclude(endings(pod(1, 0, 0, **ended(81, 11, termination("fenced", 81, **{claim: 10**30})))), (1, 0))
    assert (end.cause, end.step, end.epoch_attempt) == ("fenced", None, None), "the exit code must still be used"


def test_a_report_of_another_attempt_is_ignored() -> None:
    end = conclude(endings(pod(1, 0, 0, **ended(1, 11, termination("failed", 1, step=40, attempt=9)))), (1, 0))
    assert end.step is None


def test_a_deletion_seen_before_the_exit_stays_the_cause_when_its_time_changes() -> None:
    asked = parse_pod(deleted(pod(1, 0, 1), 10, grace=30)).ending
    done = parse_pod(deleted(pod(1, 0, 1, **ended(42, 10)), 11, grace=0)).ending
    assert conclude([done], (1, 0)).cause == "preempted", "the last observation alone must not suffice"
    (merged,) = merge_endings([asked], [done])
    assert (merged.trouble, merged.ended, merged.exit_code) == ("deleted", True, 42)
    assert conclude([merged], (1, 0)).cause == "podDeleted"


def test_merging_keeps_the_observation_with_more_details() -> None:
    early, late = parse_pod(EVICTED_RUNNING).ending, parse_pod(EVICTED).ending
    assert merge_endings([early], [late]) == (late,)
    assert merge_endings([late], [early]) == (late,)


def endings(*pods: dict) -> list:
    return [ending for item in pods if (ending := parse_pod(item).ending) is not None]
