"""Runs whose sources refuse access, or do not answer, at the start: they wait, and are then bitwise the same as runs
that did not wait.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from halcyon_api.ends import ExitCode
from halcyon_devcluster.waiting import until
from tests.faults import rows
from tests.faults.proxy import PASS, REFUSE, Fault, Proxy, Request, Status
from tests.faults.table import Trials
from tests.suite.limits import limit
from tests.trainer.checkpoint.helpers import Root
from tests.trainer.checkpoint.roots import gateway, proxy, root_behind, s3_root
from tests.trainer.support.process_groups import TrainerProcesses, run_document, start_processes

__all__ = ["gateway", "proxy", "root_behind", "s3_root"]

STEPS = 6
DENIED = Status(403, "AccessDenied")


def document(tmp_path: Path, root: Root, name: str, **checkpoint: Any) -> dict[str, Any]:
    """A run whose sources are in the same bucket as its root."""
    run = run_document(tmp_path / "root", slices=1, steps=STEPS)
    bucket = root.folder.parent.parent
    paths = []
    for file in sorted((tmp_path / "corpus").iterdir()):
        if not (bucket / file.name).exists():
            (bucket / file.name).write_text(file.read_text())
        paths.append(f"s3://{bucket.name}/{file.name}")
    run["spec"]["data"] = {"sources": [{"name": "corpus", "text": {"paths": paths}}]}
    place = f"s3://{bucket.name}/runs/{name}"
    run["spec"]["checkpoint"] = {"root": place, "endpoint": root.spec.endpoint, "save": {"everySteps": 3}, **checkpoint}
    return run


def of_a_source(request: Request) -> bool:
    return request.key.endswith(".txt")


def out_of_reach(events: list[dict[str, Any]]) -> list[str]:
    return [
        event["message"]
        for event in events
        if event.get("event") == "warning" and ".txt cannot be " in event["message"]
    ]


def wait_until_waiting(group: TrainerProcesses) -> None:
    """Wait until the process that builds the token caches, any of them, waits for a source."""
    waits = lambda: any(out_of_reach(process.events) for process in group.processes)  # noqa: E731 - a condition
    until(waits, timeout_seconds=limit(120), interval_seconds=0.1, failure=group.leader.output_tail)


def ended(group: TrainerProcesses, code: ExitCode) -> TrainerProcesses:
    try:
        assert group.wait() == [code] * len(group.processes), group.leader.output_tail()
    finally:
        group.reap()
    return group


@pytest.mark.slow
@rows.SOURCES
@pytest.mark.parametrize("slices", [1, pytest.param(2, marks=pytest.mark.variant)])
@pytest.mark.parametrize("moment", ["listing", pytest.param("reading", marks=pytest.mark.variant)])
def test_a_training_waits_for_its_sources_and_is_bitwise_the_same(
    tmp_path: Path, root_behind: Root, proxy: Proxy, trials: Trials, moment: str, slices: int
) -> None:
    calm = document(tmp_path, root_behind, "calm")
    calm["spec"]["accelerator"]["slices"] = slices
    expected = ended(start_processes(calm, tmp_path / "calm"), ExitCode.DONE).leader.losses()
    assert sorted(expected) == list(range(1, STEPS + 1))
    refused: list[Request] = []

    def decide(request: Request) -> Fault:
        if not of_a_source(request) or (moment == "reading" and request.method == "HEAD"):
            return PASS
        refused.append(request)
        return DENIED

    proxy.decide = decide
    run = document(tmp_path, root_behind, "run")
    run["spec"]["accelerator"]["slices"] = slices
    group = start_processes(run, tmp_path / "run")
    try:
        wait_until_waiting(group)
        proxy.decide = lambda request: PASS
        assert group.wait() == [ExitCode.DONE] * slices, group.leader.output_tail()
    finally:
        group.reap()
    assert group.leader.losses() == expected
    assert refused
    (sentence, *_) = [one for process in group.processes for one in out_of_reach(process.events)]
    assert sentence.startswith("spec.data.sources[corpus].text")
    assert "access is denied (HTTP status 403" in sentence
    assert "the process tries again, with credentials read again, until 20" in sentence
    trials.count("starts while a source was refused")


@pytest.mark.slow
@rows.SOURCES
@pytest.mark.parametrize(
    "fault", [pytest.param(DENIED, id="refused"), pytest.param(REFUSE, id="no answer", marks=pytest.mark.variant)]
)
def test_a_training_whose_sources_stay_unreachable_exits_with_87(
    tmp_path: Path, root_behind: Root, proxy: Proxy, trials: Trials, fault: Fault
) -> None:
    proxy.decide = lambda request: fault if of_a_source(request) else PASS
    group = ended(
        start_processes(document(tmp_path, root_behind, "run", accessRetrySeconds=2), tmp_path / "run"),
        ExitCode.DATA_UNREACHABLE,
    )
    report = group.leader.report()
    assert report["cause"] == "dataUnreachable"
    assert report["message"].startswith("spec.data.sources[corpus].text.paths[0]: s3://")
    assert "made by the test" not in report["message"]
    trials.count("starts that gave up after `accessRetrySeconds`")


@pytest.mark.slow
@rows.SOURCES
@pytest.mark.parametrize("slices", [1, pytest.param(2, marks=pytest.mark.variant)])
def test_a_notice_ends_the_wait_for_a_source_and_counts_no_failure(
    tmp_path: Path, root_behind: Root, proxy: Proxy, trials: Trials, slices: int
) -> None:
    proxy.decide = lambda request: DENIED if of_a_source(request) else PASS
    run = document(tmp_path, root_behind, "run")
    run["spec"]["accelerator"]["slices"] = slices
    group = start_processes(run, tmp_path / "run", grace_seconds=limit(30))
    try:
        wait_until_waiting(group)
        for process in group.processes:
            process.wait_for(lambda events: any(event.get("event") == "joined" for event in events))
        group.signal(signal.SIGTERM, slices - 1)
        assert group.wait() == [ExitCode.PREEMPTED] * slices, group.leader.output_tail()
    finally:
        group.reap()
    assert group.leader.report()["cause"] == "preempted"
    trials.count("notices while a source was refused")
