"""What follows from the end of a host's process is what a JobSet of the same run does, and hosts are chosen in order."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from halcyon_api.ends import ExitCode
from halcyon_api.reading import parse_run
from halcyon_cli.hosts.rules import answer, ranked, resumed
from halcyon_cli.hosts.views import Seen, ending_of, pod_of, run_view, settings_for
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.tell.pods import start_problem
from halcyon_operator.model.decision import JobSetPlan
from halcyon_operator.model.history import last_end
from halcyon_operator.model.views import HeadAbsent, JobSetView, Observed, PodEnding, ProcessGroup
from halcyon_operator.objects.jobset import build_jobset
from tests.api.documents import document

NOW = datetime(2026, 7, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=100)
ANSWERS = {
    "RestartJobSetAndIgnoreMaxRestarts": "restart", "RestartJobSet": "restartCounted", "FailJobSet": "fail",
    "Ignore": "replace",
}  # fmt: skip


def run_of(slices: int) -> Any:
    return parse_run(document(spec__accelerator__slices=slices, spec__accelerator__topology="1x1"))


def ended(code: int, *, lost: bool = False) -> PodEnding:
    seen = Seen(0, 0, "a", ProcessGroup(1, 0), NOW, NOW, ended_at=NOW, code=code, lost="gone" if lost else "")
    found = ending_of(seen, run_view(run_of(1), {}), "u")
    assert found is not None
    return found


def of_jobset(slices: int, code: int, *, lost: bool) -> str:
    """What Kubernetes does by the rules of the JobSet that the operator makes for the run."""
    run = run_of(slices)
    view = run_view(run, {})
    spec = build_jobset(JobSetPlan(view, run.spec, settings_for(run.spec), 1, 0, 4))["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    for rule in job["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes", {}).get("values", ())
        if code not in codes and not (lost and "onPodConditions" in rule):
            continue
        if rule["action"] == "Ignore":
            return "replace"
        message = (
            f"Container trainer for pod x failed with exit code {code} matching FailJob rule"
            if code in codes
            else "Pod x has condition DisruptionTarget matching FailJob rule"
        )
        for one in spec["failurePolicy"]["rules"]:
            if all(re.match(pattern, message) for pattern in one.get("onJobFailureMessagePatterns", [""])):
                return ANSWERS[one["action"]]
    return "replace" if job["backoffLimit"] else "restartCounted"


@pytest.mark.parametrize("slices", [1, 2], ids=["alone", "several"])
@pytest.mark.parametrize("lost", [False, True], ids=["exited", "lost"])
@pytest.mark.parametrize("code", [*(code for code in ExitCode if code), 2, 137, 255])
def test_an_end_is_answered_as_by_the_jobset_of_the_run(code: int, lost: bool, slices: int) -> None:
    assert answer(ended(code, lost=lost), alone=slices > 1, before=0) == of_jobset(slices, code, lost=lost)


def test_a_process_that_is_killed_again_restarts_all() -> None:
    assert answer(ended(137), alone=True, before=1) == "restartCounted"
    assert answer(ended(137, lost=True), alone=True, before=9) == "replace"


@pytest.mark.parametrize(
    ("avoided", "last", "lost", "hosts"),
    [
        ((), (), {}, "abcd"),
        ("b", (), {}, "acd"),
        ((), "a", {}, "bcda"),
        ((), (), {"a": 2, "c": 1}, "bdca"),
        ("c", "d", {"a": 1}, "bad"),
    ],
)
def test_good_hosts_come_first_and_a_lost_one_again_when_no_other_is_left(
    avoided: str, last: str, lost: dict[str, int], hosts: str
) -> None:
    assert ranked("abcd", avoided, last, lost) == list(hosts)


@pytest.mark.parametrize(
    ("seen", "trouble", "code"),
    [
        ({"code": -9}, "exited", 137),
        ({"code": 42, "asked_at": NOW}, "deleted", 42),
        ({"code": 42, "asked_at": NOW, "notice": "soon"}, "disrupted", 42),
        ({"code": 1, "asked_at": LATER + timedelta(seconds=1)}, "exited", 1),
        ({"code": 255, "lost": "no way"}, "disrupted", 255),
        ({"code": 255, "lost": "no way", "began_at": None}, "rejected", 255),
    ],
)
def test_how_a_process_ended_is_how_a_pod_ends(seen: dict[str, Any], trouble: str, code: int) -> None:
    one = Seen(**{"number": 0, "process": 1, "host": "b", "group": ProcessGroup(1, 0), "created_at": NOW,
                  "began_at": NOW, "ended_at": LATER} | seen)  # fmt: skip
    found = ending_of(one, run_view(run_of(2), {}), "u")
    assert found is not None
    assert (found.trouble, found.exit_code, found.node, found.process) == (trouble, code, "b", (1, 0))


def test_a_host_that_is_not_reached_is_described_without_a_cluster() -> None:
    pod = pod_of(Seen(0, 0, "b", ProcessGroup(1, 0), NOW), run_view(run_of(1), {}), "u", "")
    found = start_problem([pod], 1, NOW + timedelta(hours=1), None)
    assert found is not None
    since = "on node b has not started since 2026-07-01T00:00:00Z"
    assert found[1].endswith(f"{since}: NotReached; ssh or srun has started nothing there yet")


@pytest.mark.parametrize("waited", ["capacity_wait", "suspended"])
def test_a_manager_that_was_lost_leaves_a_group_that_was_preempted_and_no_hosts_in_use(waited: Any) -> None:
    run = run_of(1)
    settings = settings_for(run.spec)

    def observed(view: Any, *jobsets: JobSetView) -> Observed:
        return Observed(view, settings, jobsets, head=HeadAbsent())

    view, document = run_view(run, {}), {}
    jobset = JobSetView("tiny-1", "u", 1, view.uid, False, 0, 0, "running", "", "", None, NOW, 1, False, "")
    jobset = JobSetView(**{**jobset.__dict__, "name": f"{run.metadata.name}-1"})
    for jobsets in ((), (), (jobset,)):
        decided = reconcile(observed(run_view(run, document), *jobsets), NOW)
        assert decided.status is not None
        document = {"status": decided.status.model_dump(by_alias=True, mode="json", exclude_none=True)}
    view = run_view(run, document)
    assert view.status.goodput is not None
    later = resumed(observed(view), LATER, waited=waited)
    end, goodput = last_end(later), later.goodput
    assert end is not None
    assert goodput is not None
    assert (end.cause, end.message) == ("preempted", "the manager of the run ended")
    assert goodput.current.seconds.capacity_wait + goodput.suspended_seconds == 100.0
    again = reconcile(observed(run_view(run, {"status": later.model_dump(by_alias=True, mode="json")})), LATER)
    assert again.status is not None
    assert again.status.attempt == 2
    assert again.status.restarts.preempted == 1
