"""Restarts in place: how the ends of processes that started again in their pods are counted."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_api.ends import ExitCode
from halcyon_operator.observe.trainers import parse_report
from tests.operator.builders import deleted, disrupted, ended, pod, report, rfc
from tests.operator.test_follow import BASE, ENTRY, after
from tests.operator.training import messages

TWO = BASE | {"topology": {"slices": 2, "hosts": 2, "devices": 2, "mesh": {"data": 2}}}
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


def test_an_end_in_place_is_counted_once_whoever_observes_it() -> None:
    first = after(TWO, pods=PODS, report=heard(again())).status
    second = after(first.document(), pods=PODS, report=heard(again()))
    assert (second.status.restarts, second.status.history, second.events) == (first.restarts, first.history, ())
    third = after(first.document(), pods=PODS, report=heard(again(), again(2, 139, 0, 50))).status
    assert [(entry.in_place, entry.cause) for entry in third.history] == [(0, "failed"), (1, "failed"), (2, None)]
    assert (third.restarts.total, third.restarts.in_place, third.failures_without_checkpoint) == (2, 2, 2)


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
