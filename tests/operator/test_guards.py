"""One pod leaves a node that its run avoids; the others stay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from halcyon_api import names
from halcyon_api.ends import ExitCode
from halcyon_operator.decide.next.guards import PATIENCE_SECONDS
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.record.spec_hash import attempt_spec_hash
from halcyon_operator.model.decision import GuardPlan, JobSetPlan
from halcyon_operator.model.views import ProbeView
from halcyon_operator.objects.jobset import build, build_guard, build_jobset
from halcyon_operator.observe.jobsets import parse_jobset
from halcyon_operator.observe.observer import _with_pods
from halcyon_operator.observe.pods import parse_pod
from halcyon_operator.observe.watch_cache import SeenJobSet, SeenPod
from tests.operator.builders import (
    EXHAUSTED,
    SETTINGS,
    UID,
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
    termination,
)
from tests.operator.hardware_rows import RUNS, built
from tests.operator.test_attempts import deletions
from tests.operator.test_in_place import TWO, again, heard
from tests.operator.test_jobset import pod_of
from tests.operator.test_nodes import on, placement
from tests.suite import promises

NAME = names.guard_name("demo", "b")
LEFT = ended(ExitCode.LEAVES_NODE, 50, termination("failed", 1, message="boom", endsInPlace=[again()]))
HISTORY = [
    {"attempt": 1, "restart": 0, "startedAt": rfc(0), "endedAt": rfc(30), "cause": "failed", "fromStep": 0},
    {"attempt": 1, "restart": 0, "inPlace": 1, "startedAt": rfc(30), "fromStep": 0, "firstStepAt": rfc(35)},
]
BLAMED = TWO | {"history": HISTORY, "failuresWithoutCheckpoint": 1, "placement": placement("b")}


def guard(node: str = "b", **more: Any) -> ProbeView:
    """The guard of node b; its pod is bound to the node, or to none."""
    found = jobset(uid="guard")
    found["metadata"]["name"] = NAME
    bound = pod()
    bound["spec"]["nodeName"] = node
    return ProbeView(parse_jobset(found | more), (parse_pod(bound),))


def decided(before: dict[str, Any], *pods: Any, now: float = 60, guards: Any = (), **more: Any) -> Any:
    spec, found = more.pop("spec", {}), more.pop("jobset", jobset(guarded=True))
    own = run(before, **spec)
    before["attemptSpecHash"] = attempt_spec_hash(observed(own).run.spec)
    seen = observed(own, jobsets=[found], pods=list(pods), **more)
    return reconcile(replace(seen, guards=tuple(guards)), at(now))


def left(status: Any) -> list[tuple[str, int | None]]:
    """The avoided nodes, each with the attempt of which one pod leaves it."""
    return [(one.node, one.attempt) for one in status.placement.avoided]


def planned(decision: Any) -> list[str]:
    return [plan.node for plan in decision.create if isinstance(plan, GuardPlan)]


@promises.BAD_NODES
def test_the_pod_of_a_process_that_crashed_twice_waits_for_the_guard_of_its_node() -> None:
    gone = on("b", 1, **LEFT)
    first = decided(BLAMED, on("a", 0), gone)
    assert (left(first.status), planned(first), deletions(first)) == ([("b", 1)], ["b"], [])
    assert first.status.phase == "Restarting"
    assert [event.reason for event in first.events] == ["NodeAvoided"]
    assert len([one for one in first.status.placement.blames if one.node == "b"]) == 2
    status = first.status.document()
    waits = decided(status, on("a", 0), gone, guards=[guard("")])
    assert (deletions(waits), planned(waits), waits.requeue_after) == ([], [], 2)
    bound = decided(status, on("a", 0), gone, guards=[guard()])
    assert deletions(bound) == [("Job", "demo-1-s-1")]
    # The Job may have been faster than the guard.
    back = pod(slice_index=1)
    back["metadata"]["uid"], back["spec"]["nodeName"] = "new", "b"
    assert deletions(decided(status, on("a", 0), back, guards=[guard()])) == [("Pod", back["metadata"]["name"])]
    back["spec"]["nodeName"] = "c"
    goes_on = heard(again(), again(2, code=1, podLost=True, seconds=50))
    done = decided(status, on("a", 0), back, gone=[gone], guards=[guard()], report=goes_on)
    assert deletions(done) == []
    assert [entry.cause for entry in done.status.history] == ["failed", "failed", None]
    assert done.status.failures_without_checkpoint == 2
    assert done.status.placement.blames == first.status.placement.blames, "each failure counts once"


def test_a_process_that_crashed_twice_is_moved_only_if_its_node_is_blamed_enough() -> None:
    clear = decided(BLAMED | {"placement": placement("a")}, on("a", 0), on("b", 1, **LEFT))
    assert (left(clear.status), planned(clear), deletions(clear)) == ([], [], [("Job", "demo-1-s-1")])


AVOIDED = placement("bb") | {"avoided": [{"node": "b", "since": rfc(50), "blames": 2, "attempt": 1}]}
MOVES = BLAMED | {"placement": AVOIDED}


def test_a_pod_leaves_its_node_once_the_guard_is_there() -> None:
    crashed = BLAMED | {"placement": placement("bb"), "history": [HISTORY[0], HISTORY[1] | {"firstStepAt": None}]}
    first = decided(crashed, on("a", 0), on("b", 1))
    assert (left(first.status), planned(first), deletions(first)) == ([("b", 1)], ["b"], [])
    assert deletions(decided(MOVES, on("a", 0), on("b", 1), guards=[guard("")])) == []
    moved = decided(MOVES, on("a", 0), on("b", 1), guards=[guard()])
    assert deletions(moved) == [("Pod", "demo-1-s-1-0-abcde")]
    leaving = deleted(on("b", 1), 55)
    assert deletions(decided(MOVES, on("a", 0), leaving, guards=[guard()])) == []


def test_the_end_of_a_pod_that_left_its_node_is_no_failure() -> None:
    old = deleted(on("b", 1, **ended(42, 57)), 55)
    new = on("a", 1)
    new["metadata"]["uid"] = "new"
    change = decided(
        MOVES,
        on("a", 0),
        new,
        gone=[old],
        guards=[guard()],
        report=heard(again(), again(2, 42, podLost=True, seconds=57)),
    )
    entry = change.status.history[-2]
    assert (entry.cause, entry.message) == ("moved", "node b is avoided: pod demo-1-s-1-0-abcde was deleted")
    assert (change.status.restarts.moved, change.status.failures_without_checkpoint) == (1, 1)


def test_a_slow_process_leaves_its_node_alone_at_the_next_checkpoint() -> None:
    slow = {"node": "b", "time": rfc(50), "attempt": 1, "restart": 0, "slow": 40}
    before = BLAMED | {"placement": placement("") | {"blames": [slow]}}
    spec = {"recovery__straggler": {"action": "replace"}}
    early = decided(before, on("a", 0), on("b", 1), spec=spec, head=head(39), report=report(step=45))
    assert (planned(early), deletions(early)) == ([], [])
    late = decided(before, on("a", 0), on("b", 1), spec=spec, head=head(40), report=report(step=45))
    assert (left(late.status), planned(late), deletions(late)) == ([("b", 1)], ["b"], [])
    (event,) = [event for event in late.events if event.reason == "NodeAvoided"]
    assert event.message == "Attempts avoid node b: its process was slower than the others"


@pytest.mark.parametrize(
    ("found", "more"),
    [
        (jobset(), {}),
        (jobset(guarded=True, outcome="Failed", reason=EXHAUSTED), {}),
    ],
    ids=["its template knows no guards", "its pods have ended"],
)
def test_all_pods_are_replaced_where_one_cannot_leave(found: dict[str, Any], more: dict[str, Any]) -> None:
    before = BLAMED | {"placement": placement("bb"), "history": [HISTORY[0], HISTORY[1] | {"firstStepAt": None}]}
    stopped = decided(before, on("a", 0), on("b", 1), jobset=found, **more)
    assert (left(stopped.status), deletions(stopped)) == ([("b", None)], [("JobSet", "demo-1")])


@pytest.mark.parametrize(
    ("now", "nodes", "guards", "stops"),
    [
        (49 + PATIENCE_SECONDS, "ab", [guard("")], False),
        (51 + PATIENCE_SECONDS, "ab", [guard("")], True),
        (51 + PATIENCE_SECONDS, "ab", [], True),  # refused, such as by a quota
        (51 + PATIENCE_SECONDS, "ac", [guard("")], False),
        (51 + PATIENCE_SECONDS, "ab", [guard()], False),
    ],
)
def test_all_pods_are_replaced_where_a_guard_does_not_come(now: float, nodes: str, guards: Any, stops: bool) -> None:
    decision = decided(MOVES, on(nodes[0], 0), on(nodes[1], 1), now=now, guards=guards)
    assert (("JobSet", "demo-1") in deletions(decision)) is stops


@pytest.mark.parametrize(
    ("before", "more"),
    [
        (MOVES | {"placement": AVOIDED | {"waitingSince": rfc(-300)}}, {}),
        (MOVES, {"now": 86_460}),
        (MOVES, {"spec": {"recovery__badNodes": {"blames": 0}}}),
        (MOVES, {"spec": {"suspend": True}, "head": head(40)}),
        (MOVES | {"attempt": 2, "jobSetName": "demo-2", "jobSetUid": "jobset-2"}, {"jobset": jobset(2, guarded=True)}),
    ],
    ids=["no other node has room", "after a time", "the run avoids no nodes", "suspended", "next attempt"],
)
def test_a_guard_goes_when_its_node_is_not_avoided_or_the_attempt_ends(before: Any, more: Any) -> None:
    decision = decided(before, on("a", 0), guards=[guard()], **more)
    assert ("JobSet", NAME) in deletions(decision)
    assert planned(decision) == []


def test_avoided_nodes_are_used_again_without_a_new_attempt_where_guards_keep_pods_off() -> None:
    decision = decided(MOVES | {"placement": AVOIDED | {"waitingSince": rfc(-300)}}, on("a", 0), guards=[guard()])
    assert (left(decision.status), deletions(decision)) == ([], [("JobSet", NAME)])
    assert "NodesTakenBack" in [event.reason for event in decision.events]
    by_template = AVOIDED | {"waitingSince": rfc(-300), "avoided": [AVOIDED["avoided"][0] | {"attempt": 0}]}
    del by_template["avoided"][0]["attempt"]
    assert ("JobSet", "demo-1") in deletions(decided(MOVES | {"placement": by_template}, on("a", 0)))


def plan() -> GuardPlan:
    view = observed(run(scheduling__priorityClassName="high")).run
    assert view.spec is not None
    return GuardPlan(view, view.spec, SETTINGS, "b")


def test_a_guard_stays_on_its_node_and_needs_nothing_of_it() -> None:
    guard = build_guard(plan())
    pod = pod_of(guard)
    assert pod["nodeName"] == "b", "the scheduler would keep it off the node while the run's pod is there"
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["priorityClassName"] == "high", "the run's own pods must not preempt it"
    assert set(pod["containers"][0]["resources"]["requests"].values()) == {"0"}
    assert (guard["metadata"]["name"], build(plan())) == (NAME, guard)


ALONE = [name for name in RUNS if "podAntiAffinity" in pod_of(built(name)).get("affinity", {})]


def test_pods_keep_off_the_guards_of_their_run_where_one_pod_can_leave() -> None:
    assert "h100-2x8" in ALONE
    for name in ("h100-2x8-not-in-place", "h100-1x8-spot", "v5e-4x4", "v6e-4x8-two-slices-spot"):
        assert name not in ALONE, "all pods, one process, or nodes that belong together"
    jobset = build_jobset(JobSetPlan(plan().run, plan().spec, SETTINGS, 1, 0, 3))
    (term,) = pod_of(jobset)["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    labels = build_guard(plan())["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["metadata"]["labels"]
    own = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["metadata"]["labels"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"]["matchLabels"].items() <= labels.items()
    assert not term["labelSelector"]["matchLabels"].items() <= own.items()
    assert parse_jobset(jobset).guarded


@pytest.mark.parametrize(
    ("changes", "moves"),
    [
        ({}, True),
        ({"status": {"phase": "Pending"}}, True),  # such as on a node that does not answer
        ({"spec": {}}, False),
        ({"status": {"phase": "Failed"}}, False),
    ],
)
def test_a_guard_has_an_effect_from_its_binding_to_its_end(changes: dict[str, Any], moves: bool) -> None:
    made = build_guard(plan())
    made["metadata"]["uid"] = "guard"
    made["metadata"]["labels"] |= {names.LABEL_RUN_UID: UID}
    bound = pod(slice_index=0) | {"spec": {"nodeName": "b"}} | changes
    bound["metadata"] |= {"name": f"{NAME}-s-0-0-abcde"}
    bound["metadata"]["labels"] |= {names.LABEL_ROLE: names.ROLE_GUARD, names.JOBSET_UID_LABEL: "guard"}
    view = observed(run()).run
    found = _with_pods(view, [SeenJobSet(made)], [SeenPod(bound)], "guard")
    moved = decided(MOVES, on("a", 0), on("b", 1), guards=found)
    assert bool(deletions(moved)) is moves
    stranger = made | {"metadata": made["metadata"] | {"ownerReferences": []}}
    assert not _with_pods(view, [SeenJobSet(stranger)], [SeenPod(bound)], "guard")
