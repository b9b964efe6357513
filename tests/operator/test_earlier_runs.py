"""A run with the name of a deleted run starts only when no process of the deleted run is left, so that all its steps
are saved.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from halcyon_api import names
from halcyon_operator.decide.reconcile import reconcile
from tests.operator.builders import at, deleted, ended, head, jobset, observed, pod, rfc, run
from tests.operator.simulation import JOBSETS, PODS, RUN, SimulatedCluster
from tests.operator.test_attempts import condition, deletions, status

OLD = "an-earlier-run"


def orphaned(made: dict[str, Any]) -> dict[str, Any]:
    """As the garbage collector leaves an orphan: without its owner, but with all its labels."""
    made["metadata"]["labels"][names.LABEL_RUN_UID] = OLD
    made["metadata"]["ownerReferences"] = [
        one for one in made["metadata"].get("ownerReferences", ()) if one["kind"] != "TrainingRun"
    ]
    return made


def without_owner(made: dict[str, Any]) -> dict[str, Any]:
    """As before the garbage collector deletes it: its owner does not exist any more."""
    made["metadata"]["labels"][names.LABEL_RUN_UID] = OLD
    made["metadata"]["ownerReferences"][0]["uid"] = OLD
    return made


def test_an_orphaned_jobset_is_reported_and_not_deleted() -> None:
    decision = reconcile(observed(run(), jobsets=[orphaned(jobset())], head=head(40)), at(60))
    assert (decision.status.attempt, decision.create, deletions(decision)) == (0, (), [])
    assert condition(decision, "Stalled") == ("True", "NameTaken")
    assert decision.status.condition("Stalled").message == (
        "JobSet demo-1 of an earlier run of this name, which was deleted without it, still runs; delete it "
        "(kubectl delete jobset,configmap demo-1 --namespace default --cascade=foreground): its pods save, and this "
        "run goes on from there"
    )


@pytest.mark.parametrize("left", [without_owner(jobset()), orphaned(jobset(deleting=True))], ids=["doomed", "deleted"])
def test_a_jobset_that_will_be_deleted_anyway_is_waited_for(left: dict[str, Any]) -> None:
    decision = reconcile(observed(run(), jobsets=[left], head=head(40)), at(60))
    assert (decision.status.attempt, decision.status.phase, deletions(decision)) == (0, "Pending", [])
    assert condition(decision, "Stalled")[0] == "False"
    assert (
        decision.status.condition("Ready").message
        == "waiting for JobSet demo-1 of an earlier run of this name and its pods to be gone"
    )


def test_an_ended_jobset_of_an_earlier_run_does_not_block_the_new_run() -> None:
    done = [orphaned(jobset(outcome="Completed")), orphaned(jobset(2, outcome="Failed"))]
    decision = reconcile(observed(run(), jobsets=done, head=head(40)), at(60))
    assert decision.status.attempt == 3, "the number must be above theirs"


def test_a_started_run_is_not_blocked_by_forged_labels() -> None:
    forged = jobset(7) | {"status": {}}
    decision = reconcile(observed(run(status(jobSetUid=None)), jobsets=[orphaned(forged)]), at(60))
    assert condition(decision, "Stalled")[0] == "False"
    assert decision.create


def story() -> SimulatedCluster:
    """A run trains, is deleted with `--cascade=orphan`, and is created again."""
    cluster = SimulatedCluster(run())
    cluster.settle()
    cluster.train(50)
    cluster.settle()
    for place, thing in cluster.api.objects.items():
        if place.startswith((JOBSETS, PODS)):
            orphaned(thing)
    again = run()
    again["metadata"] |= {"uid": "22222222-2222-2222-2222-222222222222", "resourceVersion": str(cluster.api.version)}
    cluster.api.objects[RUN] = again
    cluster._start_operator()
    cluster.head = head(40)
    return cluster


def test_the_new_run_starts_when_the_last_pod_of_the_old_run_has_ended() -> None:
    cluster = story()
    made = list(cluster.api.created)
    cluster.settle()
    assert (cluster.status["phase"], cluster.status["attempt"], cluster.api.created) == ("Failed", 0, made)
    # The JobSet is deleted at once; its pods have a signal and still save.
    place = next(place for place in cluster.api.objects if place.startswith(PODS))
    leaving = deleted(cluster.api.objects[place], cluster.now)
    del cluster.api.objects[next(place for place in cluster.api.objects if place.startswith(JOBSETS))]
    cluster.tick = lambda: None  # type: ignore[method-assign]
    cluster.api.objects[place] = leaving
    cluster.settle()
    ready = next(one for one in cluster.status["conditions"] if one["type"] == "Ready")
    assert (cluster.status["phase"], cluster.status["attempt"], cluster.api.created) == ("Pending", 0, made)
    assert ready["message"].startswith(
        "waiting for 2 pods of an earlier run of this name to end, among them demo-1-s-0-0-abcde on node"
    )
    del cluster.api.objects[place]
    cluster.head = head(50)
    del cluster.tick
    cluster.settle()
    assert (cluster.status["attempt"], cluster.status["checkpoint"]["step"]) == (2, 50)
    assert [name for _, name in cluster.api.created[len(made) :]] == ["demo-2", "demo-2"]


@pytest.mark.parametrize(
    "other",
    [
        pod(**ended(0, 50)),
        pod() | {"metadata": pod()["metadata"] | {"ownerReferences": []}},
        pod() | {"metadata": pod()["metadata"] | {"labels": {names.LABEL_RUN: "demo", names.LABEL_RUN_UID: OLD}}},
    ],
    ids=["ended", "without owner", "no trainer"],
)
def test_a_pod_that_only_has_the_runs_labels_does_not_block_the_run(other: dict[str, Any]) -> None:
    cluster = SimulatedCluster(run())
    other = other | {"kind": "Pod"}
    other["metadata"]["labels"][names.LABEL_RUN_UID] = OLD
    other["metadata"] |= {"name": "of-another", "resourceVersion": "1", "creationTimestamp": rfc(0)}
    cluster.api.objects[f"{PODS}/of-another"] = other
    asyncio.run(cluster.reconcile_once())
    assert cluster.status["attempt"] == 1, "it must start in the first reconciliation, although the pod exists"
