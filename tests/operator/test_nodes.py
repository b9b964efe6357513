"""Which node is blamed for an end, when it is avoided, and when not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from halcyon_operator.decide.next.bad_nodes import current_avoided, node_to_avoid
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.record.follow import follow
from halcyon_operator.decide.record.placement import placement_of
from halcyon_operator.decide.record.spec_hash import attempt_spec_hash
from halcyon_operator.objects.jobset import build
from halcyon_operator.observe.jobsets import parse_jobset
from tests.operator.builders import (
    EXHAUSTED,
    at,
    deleted,
    disrupted,
    ended,
    head,
    jobset,
    observed,
    pod,
    report,
    rfc,
    run,
    termination,
)
from tests.operator.test_attempts import HASH, condition, deletions
from tests.operator.test_held_pods import TWO
from tests.suite import promises


def on(node: str, slice_index: int, *, restart: int = 0, **status: Any) -> dict[str, Any]:
    found = pod(1, restart, slice_index, **status)
    found["spec"]["nodeName"] = node
    return found


def status(**more: Any) -> dict[str, Any]:
    return {
        "phase": "Running",
        "attempt": 1,
        "attemptSpecHash": HASH,
        "jobSetName": "demo-1",
        "jobSetUid": "jobset-1",
        "startedAt": rfc(0),
        "history": [{"attempt": 1, "restart": 0, "startedAt": rfc(0), "fromStep": 0, "firstStepAt": rfc(5)}],
        **more,
    }


def blames(pods: list[dict[str, Any]], **spec: Any) -> list[str]:
    """The nodes blamed for the end of a process group."""
    found = jobset(restarts=1, counted=1)
    seen = observed(run(status(), **spec), jobsets=[found], pods=pods)
    change = follow(replace(seen, now=at(60)), seen.run.status, parse_jobset(found)).status
    return [blame.node for blame in change.placement.blames] if change.placement is not None else []


CRASH = ended(1, 50, "boom")
ECHO = ended(1, 50, termination("failed", 1, message="the words do not matter", peerLost=0))
WRONG = ended(88, 50, termination("corrupted", 88, message="two computations of a gradient differ"))
RIGHT = ended(88, 50, termination("corrupted", 88, message="two computations of a gradient differ", peerLost=1))


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        ([on("a", 0, **CRASH), on("b", 1, **ended(1, 51, "boom"))], ["a"]),
        ([on("a", 0, **CRASH), on("b", 1)], ["a"]),
        ([on("a", 0, **ended(137, 50)), on("b", 1, **ECHO)], ["a"]),
        ([on("a", 0, **ECHO), on("b", 1, **CRASH)], ["b"]),
        ([on("a", 0, **RIGHT), on("b", 1, **WRONG), on("c", 2, **RIGHT)], ["b"]),
        ([on("a", 0, **WRONG), on("b", 1, **WRONG)], ["a", "b"]),  # no majority says which
        ([on("a", 0, **CRASH), on("b", 1, **CRASH)], []),  # in the same second, so the first one is unknown
        ([on("a", 0, **CRASH), on("a", 1, **CRASH)], []),  # one node: the cause may also be the program
        ([on("a", 0, **(CRASH | disrupted(49))), on("b", 1, **CRASH)], []),
        ([deleted(on("a", 0), 49), on("b", 1, **CRASH)], []),
        ([on("a", 0, **ended(42, 50)), on("b", 1, **ended(1, 51))], []),
        ([on("a", 0, **ended(83, 50, termination("runChanged", 83))), on("b", 1, **ended(1, 51))], []),
    ],
)
def test_only_the_first_failed_node_of_a_process_group_is_blamed(
    pods: list[dict[str, Any]], expected: list[str]
) -> None:
    assert blames(pods) == expected


@pytest.mark.parametrize(
    ("second", "missing", "cause", "failures"),
    [
        ("", True, "noRoom", 0),
        ("b", True, "failed", 1),  # they had nodes, so the cause is the network or a program
        ("", False, "failed", 1),
    ],
)
def test_a_process_group_whose_pods_got_no_node_is_not_a_failure(
    second: str, missing: bool, cause: str, failures: int
) -> None:
    first = on("a", 0, **ended(1, 50, termination("failed", 1, othersMissing=missing)))
    other = deleted(on(second, 1, phase="Pending", containerStatuses=[]), 51, grace=0)
    seen = observed(run(status()), jobsets=[jobset(restarts=1, counted=1)], pods=[first, other])
    change = follow(replace(seen, now=at(60)), seen.run.status, parse_jobset(jobset(restarts=1, counted=1))).status
    assert (change.history[0].cause, change.failures_without_checkpoint) == (cause, failures)
    assert change.restarts.total == 1
    assert change.placement is None or not missing, "the node that waited must not be blamed"


def placement(nodes: str, avoided: str = "", seconds: float = 0) -> dict[str, Any]:
    return {
        "slices": 2,
        "wantedSlices": 2,
        "blames": [{"node": node, "time": rfc(seconds), "attempt": 1, "restart": 0} for node in nodes],
        "avoided": [{"node": node, "since": rfc(seconds), "blames": 2} for node in avoided],
    }


@pytest.mark.parametrize(
    ("found", "settings", "expected"),
    [
        (placement("a"), {}, None),
        (placement("aa"), {}, "a"),
        (placement("aba"), {}, None),  # other nodes are blamed too: it needs more than twice as many blames
        (placement("abaa"), {}, "a"),
        (placement("aabb"), {}, None),
        (placement("aa"), {"blames": 0}, None),
        (placement("aa"), {"blames": 3}, None),
        (placement("aabb", avoided="a"), {}, "b"),
        (placement("aabbcc", avoided="ab"), {}, None),  # maxNodes is reached
        (placement("aabbcc", avoided="ab"), {"maxNodes": 3}, "c"),
        (placement("aa"), {"expireSeconds": 50}, None),
        (placement("aabb", avoided="a"), {"expireSeconds": 50}, None),
    ],
)
def test_a_node_is_avoided_after_more_blames_than_the_other_nodes(
    found: dict[str, Any], settings: dict[str, Any], expected: str | None
) -> None:
    view = observed(run(status(placement=found), recovery__badNodes=settings)).run
    assert view.spec is not None
    node = node_to_avoid(placement_of(view.status, view.spec), view.spec, at(60))
    assert (node.node if node is not None else None) == expected


@promises.CORRUPTED
def test_a_node_with_wrong_numbers_is_avoided_at_once() -> None:
    pods = [on("a", 0, **RIGHT), on("b", 1, **WRONG)]
    failed = jobset(outcome="Failed", reason=EXHAUSTED)
    seen = observed(run(status()), jobsets=[failed], pods=pods)
    change = follow(replace(seen, now=at(60)), seen.run.status, parse_jobset(failed)).status
    assert change.placement is not None
    (blame,) = change.placement.blames
    assert (blame.node, blame.corrupted, change.history[-1].cause) == ("b", True, "corrupted")
    decision = reconcile(observed(run(change.document()), jobsets=[failed], pods=pods), at(61))
    assert [node.node for node in decision.status.placement.avoided] == ["b"]


def suspicions(*groups: str) -> list[dict[str, Any]]:
    """The blames of audits that suspected these nodes, one letter each."""
    return [
        {"node": node, "time": rfc(number), "attempt": number, "restart": 0, "corrupted": False}
        for number, nodes in enumerate(groups, 1)
        for node in nodes
    ]


@pytest.mark.parametrize(
    ("suspected", "avoided", "next_node"),
    [
        (("ab",), "", "a"),
        (("ab",), "a", None),  # it is avoided already
        (("ab", "bc"), "a", "b"),  # b was suspected twice, so it is wrong
        (("ab", "ac"), "a", None),  # a was used again, because pods found no other node
        (("ab", "cd"), "a", "c"),
        (("ab", "bc"), "b", None),
        (("ab", "ab"), "", "a"),
    ],
)
@promises.CORRUPTED
def test_of_two_suspected_nodes_the_one_that_is_suspected_again_is_avoided(
    suspected: tuple[str, ...], avoided: str, next_node: str | None
) -> None:
    found = placement("", avoided) | {"blames": suspicions(*suspected)}
    view = observed(run(status(placement=found), recovery__badNodes={"maxNodes": 1 + (suspected[-1] == "cd")})).run
    assert view.spec is not None
    node = node_to_avoid(placement_of(view.status, view.spec), view.spec, at(60))
    assert (node.node if node is not None else None) == next_node


@promises.CORRUPTED
def test_two_slices_find_the_wrong_node_by_leaving_out_one_after_the_other() -> None:
    """First a is avoided. When b is suspected beside c, b is avoided, and a may be used again."""
    failed = jobset(outcome="Failed", reason=EXHAUSTED)

    def moved(before: dict[str, Any], other: str) -> Any:
        pods = [on(other, 0, **WRONG), on("b", 1, **WRONG)]
        return reconcile(observed(run(before), jobsets=[failed], pods=pods), at(60))

    first = moved(status(), "a")
    assert [node.node for node in first.status.placement.avoided] == ["a"]
    (event,) = [event for event in first.events if event.reason == "NodeAvoided"]
    assert event.message.startswith("Attempts avoid node a: ")
    kept = first.status.placement.document()
    assert [(blame["node"], blame["corrupted"]) for blame in kept["blames"]] == [("a", False), ("b", False)]
    for blame in kept["blames"]:
        blame["attempt"] = 0  # the suspicion of an earlier attempt
    second = moved(status(placement=kept), "c")
    assert [node.node for node in second.status.placement.avoided] == ["b"]


def test_no_node_of_a_multi_host_tpu_slice_is_avoided() -> None:
    tpu = {"accelerator": {"type": "v5e", "topology": "4x4", "slices": 2}, "trainer__batchSize": 32}
    view = observed(run(status(placement=placement("aa")), **tpu)).run
    assert view.spec is not None
    assert node_to_avoid(placement_of(view.status, view.spec), view.spec, at(60)) is None


def affinity(decision: Any) -> Any:
    pod = build(decision.create[-1])["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    return pod.get("affinity")


@promises.BAD_NODES
def test_the_next_attempt_avoids_a_node_that_was_blamed_again_and_reports_it() -> None:
    before = status(
        placement=placement("a"),
        failuresWithoutCheckpoint=1,
        jobSetRestarts=1,
        jobSetRestartsCounted=1,
        history=[
            {"attempt": 1, "restart": 0, "startedAt": rfc(0), "endedAt": rfc(9), "cause": "failed", "fromStep": 0},
            {"attempt": 1, "restart": 1, "startedAt": rfc(9), "fromStep": 0, "firstStepAt": rfc(15)},
        ],
    )
    pods = [on("a", 0, restart=1, **CRASH), on("b", 1, restart=1)]
    moved = reconcile(observed(run(before), jobsets=[jobset(restarts=2, counted=2)], pods=pods), at(60))
    assert (deletions(moved), moved.status.history[-1].cause) == ([("JobSet", "demo-1")], "moved")
    assert [node.node for node in moved.status.placement.avoided] == ["a"]
    (event,) = [event for event in moved.events if event.reason == "NodeAvoided"]
    assert "node a" in event.message
    assert "boom" in event.message
    minted = reconcile(observed(run(moved.status.document())), at(61))
    assert (minted.status.attempt, minted.status.restarts.moved, minted.status.failures_without_checkpoint) == (2, 1, 2)
    made = reconcile(observed(run(minted.status.document())), at(62))
    (term,) = affinity(made)["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["a"]}]


def test_a_training_process_group_is_not_stopped_for_a_bad_node() -> None:
    trains = status(placement=placement("aa"))
    kept = reconcile(observed(run(trains), jobsets=[jobset()], pods=[on("a", 0), on("b", 1)]), at(60))
    assert deletions(kept) == []
    # But if the JobSet has failed, the next attempt avoids the node.
    failed = jobset(outcome="Failed", reason=EXHAUSTED)
    stopped = reconcile(observed(run(trains), jobsets=[failed], pods=[on("a", 0, **CRASH), on("b", 1)]), at(60))
    assert deletions(stopped) == [("JobSet", "demo-1")]
    assert (stopped.status.history[-1].cause, stopped.status.placement.avoided[0].node) == ("failed", "a")


SLOW = {"node": "b", "time": rfc(50), "attempt": 1, "restart": 0, "slow": 40}


@pytest.mark.parametrize("action", ["report", "replace"])
def test_a_slow_process_is_reported_and_its_node_left_at_the_next_checkpoint(action: str) -> None:
    def seen(before: dict[str, Any], step: int) -> Any:
        reported = report(step=45, slow={"process": 1, "step": 40, "ratio": 2.04})
        pods = [on("a", 0), on("b", 1)]
        own = run(before, recovery__straggler={"action": action})
        before["attemptSpecHash"] = attempt_spec_hash(observed(own).run.spec)
        return reconcile(observed(own, jobsets=[jobset()], pods=pods, report=reported, head=head(step)), at(50))

    found = seen(status(topology=TWO), 39)
    assert deletions(found) == []
    (event,) = [event for event in found.events if event.reason == "SlowProcess"]
    assert event.message.endswith("wait for process 1 on node b, whose own work takes 2.04 times as long")
    assert [blame.document() for blame in found.status.placement.blames] == [SLOW]
    again = seen(found.status.document(), 40)
    assert "SlowProcess" not in [event.reason for event in again.events]
    if action == "report":
        assert deletions(again) == []
        return
    assert (deletions(again), again.status.history[-1].cause) == ([("JobSet", "demo-1")], "moved")
    assert [node.node for node in again.status.placement.avoided] == ["b"]
    # There was no other node, so the run came back. It does not leave again.
    back = status(topology=TWO, placement=placement("") | {"blames": [{**SLOW, "slow": 0}]})
    assert deletions(seen(back, 40)) == []


def test_avoided_nodes_are_used_again_when_the_run_finds_no_others() -> None:
    waits = status(
        placement=placement("aa", avoided="a") | {"waitingSince": rfc(0), "blames": [SLOW]},
        history=[{"attempt": 1, "restart": 0, "startedAt": rfc(0)}],
    )
    seen = {"jobsets": [jobset()], "pods": [on("b", 0)]}
    early = reconcile(observed(run(waits), **seen), at(299))
    assert deletions(early) == []
    late = reconcile(observed(run(waits), **seen), at(301))
    assert deletions(late) == [("JobSet", "demo-1")]
    left = late.status.placement
    assert (late.status.history[-1].cause, left.avoided, [blame.slow for blame in left.blames]) == ("moved", [], [0])
    assert "NodesTakenBack" in [event.reason for event in late.events]
    assert condition(late, "Stalled")[0] == "False"


def test_an_avoided_node_is_used_again_after_a_time_or_after_a_resume() -> None:
    view = observed(run(status(placement=placement("aa", avoided="a")))).run
    assert view.spec is not None
    assert view.status.placement is not None
    assert current_avoided(view.status.placement.avoided, view.spec.recovery.bad_nodes, at(86_399))
    assert not current_avoided(view.status.placement.avoided, view.spec.recovery.bad_nodes, at(86_401))
    closed = [{"attempt": 1, "restart": 0, "startedAt": rfc(0), "endedAt": rfc(9), "cause": "suspended"}]
    resumed = reconcile(
        observed(run(status(placement=placement("aa", avoided="a"), phase="Suspended", history=closed))), at(60)
    )
    assert (resumed.status.attempt, resumed.status.placement) == (2, None)
