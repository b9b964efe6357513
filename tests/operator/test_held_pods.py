"""A pod whose trainer has ended counts as ended, also if another container keeps it alive: the proxy of a service mesh,
a Vault agent.
"""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.tell.pods import HELD_SECONDS
from halcyon_operator.model.decision import Decision
from tests.operator.builders import at, ended, head, jobset, observed, pod, run, termination
from tests.operator.test_attempts import condition, deletions, status

PROXY = {"name": "istio-proxy", "state": {"running": {}}}
TWO = reconcile(observed(run(), head=head()), at(0)).status.document()["topology"]
"""Two slices of one host each."""
END = 90
DUE = END + HELD_SECONDS


def held(code: int, message: str = "", **place: int) -> dict[str, Any]:
    """A pod whose trainer has ended while another container runs."""
    left = ended(code, END, message)
    return pod(**place, **(left | {"phase": "Running", "containerStatuses": [PROXY, *left["containerStatuses"]]}))


def group(code: int, cause: str, step: int) -> list[dict[str, Any]]:
    message = termination(cause, code, step=step, progress={"step": step, "steps": 300})
    return [held(code, message), held(code, message, slice_index=1)]


def decided(pods: list[dict[str, Any]], seconds: float, **more: Any) -> Decision:
    return reconcile(observed(run(status(topology=TWO)), jobsets=[jobset()], pods=pods, **more), at(seconds))


def test_a_run_whose_trainers_are_done_succeeds_and_releases_its_hardware() -> None:
    pods = group(0, "completed", 300)
    early = decided(pods, DUE - 5)
    assert (early.status.phase, deletions(early), early.requeue_after) == ("Running", [], 5)
    message = early.status.condition("Ready").message
    assert condition(early, "Ready") == ("True", "PodHeld")
    assert "its trainer has ended, and the container istio-proxy keeps it alive" in message
    done = decided(pods, DUE, head=head(300))
    assert (done.status.phase, done.status.progress.step, deletions(done)) == ("Succeeded", 300, [("JobSet", "demo-1")])
    again = reconcile(observed(run(done.status.document()), jobsets=[jobset()], pods=pods), at(DUE + 9))
    assert deletions(again) == [("JobSet", "demo-1")], "the operator was killed before the deletion"
    assert (
        deletions(
            reconcile(observed(run(done.status.document()), jobsets=[jobset(deleting=True)], pods=pods), at(DUE + 9))
        )
        == []
    )


def test_a_run_that_ended_early_stops_and_releases_its_hardware() -> None:
    found = decided(group(0, "completed", 20), DUE, head=head(20))
    assert condition(found, "Stalled") == ("True", "EndedEarly")
    assert deletions(found) == [("JobSet", "demo-1")]


def test_a_pod_with_another_exit_code_is_deleted_so_that_the_job_sees_it() -> None:
    pods = [held(42, termination("failed", 42, step=20)), pod(slice_index=1)]
    early = decided(pods, DUE - 5)
    assert (deletions(early), condition(early, "Ready")) == ([], ("False", "PodHeld"))
    due = decided(pods, DUE)
    assert ("Pod", pods[0]["metadata"]["name"]) in deletions(due)
    assert not any(deletion.force for deletion in due.delete)
    assert [event.message for event in due.events if event.reason == "PodHeld"] == [
        f"Deleting pod {pods[0]['metadata']['name']}: its trainer has ended, and the container istio-proxy keeps it "
        "alive"
    ]


@pytest.mark.parametrize(
    "pods",
    [
        [held(0, termination("completed", 0, step=300)), pod(slice_index=1)],
        [held(0, termination("completed", 0, step=300))],
        [pod(), pod(slice_index=1)],
        [pod(**(ended(0, END) | {"phase": "Running"})), pod(slice_index=1, **(ended(0, END) | {"phase": "Running"}))],
    ],
    ids=["one still trains", "one is not there yet", "all train", "no other container"],
)
def test_nothing_is_deleted_before_all_trainers_have_ended(pods: list[dict[str, Any]]) -> None:
    found = decided(pods, DUE + 1000)
    assert deletions(found) == []
    assert found.status.phase != "Succeeded"


def test_a_pod_of_another_owner_is_never_deleted() -> None:
    foreign = held(42)
    foreign["metadata"]["ownerReferences"] = []
    assert deletions(decided([foreign, pod(slice_index=1)], DUE + 1000)) == []
