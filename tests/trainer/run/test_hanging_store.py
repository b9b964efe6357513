"""A store that does not answer while a run saves: the run trains on beside the save, and shows that it does."""

from __future__ import annotations

import json
import signal
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from halcyon_api.ends import ExitCode
from tests.faults.proxy import PASS, SLOW_DOWN, Fault, Proxy, Request, Stall, proxied
from tests.suite.limits import limit
from tests.trainer.checkpoint.helpers import Root
from tests.trainer.checkpoint.roots import Gateway, gateway, s3_root
from tests.trainer.support.process_groups import Process, TrainerProcesses, run_document, start_processes

__all__ = ["gateway", "s3_root"]

EVERY_STEPS = 25
pytestmark = pytest.mark.slow


class Outage:
    """A store that goes away in the middle of a save, and comes back on request."""

    def __init__(self, proxy: Proxy, kind: str) -> None:
        self._kind, self._armed, self._began, self._over = kind, threading.Event(), threading.Event(), threading.Event()
        proxy.decide = self._decide

    def begin(self) -> None:
        """Wait until a save has begun, whose requests find no store."""
        self._armed.set()
        assert self._began.wait(limit(60)), "no save began"

    def end(self) -> None:
        """The store answers again, and does what it was asked for."""
        self._over.set()

    def _decide(self, request: Request) -> Fault:
        if self._armed.is_set() and request.method == "PUT" and "/data/" in request.key:
            self._began.set()
        if not self._began.is_set() or self._over.is_set():
            return PASS
        return SLOW_DOWN if self._kind == "503" else Stall(self._over)


def of(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event.get("event") == name]


def reaches(step: int) -> Any:
    return lambda events: any(event["step"] >= step for event in of(events, "step"))


def ask(process: Process, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{process.port}{path}", timeout=limit(10)) as answer:
        return str(answer.read().decode())


@contextmanager
def away(
    tmp_path: Path,
    gateway: Gateway,
    root: Root,
    *,
    kind: str = "silence",
    slices: int = 1,
    grace_seconds: int = 30,
    **more: Any,
) -> Iterator[tuple[TrainerProcesses, Outage]]:
    """A run whose store goes away in the middle of its third save."""
    with proxied(gateway.endpoint) as proxy:
        outage = Outage(proxy, kind)
        run = run_document(tmp_path / "root", slices=slices, steps=10**6)
        run["spec"]["checkpoint"] = {
            "save": {"everySteps": EVERY_STEPS},
            "root": root.spec.root,
            "endpoint": proxy.endpoint,
            **more,
        }
        group = start_processes(run, tmp_path / "run", grace_seconds=grace_seconds)
        try:
            group.leader.wait_for(lambda events: len(of(events, "checkpoint")) >= 2)
            outage.begin()
            yield group, outage
        finally:
            outage.end()
            group.reap()


@pytest.mark.parametrize("kind", ["silence", pytest.param("503", marks=pytest.mark.variant)])
def test_training_goes_on_beside_a_save_that_hangs(tmp_path: Path, gateway: Gateway, s3_root: Root, kind: str) -> None:
    """Both processes take the same steps, with the losses of a run whose store always answers."""
    with away(tmp_path, gateway, s3_root, kind=kind, slices=2) as (group, outage):
        leader = group.leader
        leader.wait_for(lambda events: bool(of(events, "checkpointLate")))
        (late,) = of(leader.events, "checkpointLate")
        begun = max(leader.losses())
        leader.wait_for(reaches(begun + 4 * EVERY_STEPS))
        status = json.loads(ask(leader, "/status"))
        assert (status["lateSave"]["step"], status["lateSave"]["waits"]) == (late["step"], False)
        assert status["lateSave"]["silentSince"]
        assert "halcyon_trainer_late_save_seconds " in ask(leader, "/metrics")
        assert f"the save of step {late['step']} takes longer than usual" in late["message"]
        assert "and the store has completed no request for" in late["message"]
        assert status["seconds"]["saveBlocking"] > 0
        outage.end()
        leader.wait_for(lambda events: any(event["step"] > late["step"] for event in of(events, "checkpoint")))
        assert "lateSave" not in json.loads(ask(leader, "/status"))
        group.signal(signal.SIGTERM, 1)
        assert group.wait() == [ExitCode.PREEMPTED] * 2
    report, losses = leader.report(), leader.losses()
    assert (report["saved"], report["checkpointStep"]) == ("step", report["step"]), report["message"]
    assert len(of(leader.events, "checkpointLate")) == 1
    assert sorted(losses) == list(range(1, report["step"] + 1))
    calm = start_processes(run_document(tmp_path / "calm-root", steps=10**6), tmp_path / "calm")
    try:
        calm.leader.wait_for(reaches(max(losses)))
    finally:
        calm.reap()
    assert losses == {step: calm.leader.losses()[step] for step in losses}


@pytest.mark.variant
def test_a_permanent_step_waits_for_the_save_that_hangs_and_says_so(
    tmp_path: Path, gateway: Gateway, s3_root: Root
) -> None:
    permanent = [{"everySteps": EVERY_STEPS}]
    with away(tmp_path, gateway, s3_root, permanent=permanent) as (group, outage):
        leader = group.leader
        leader.wait_for(lambda events: bool(of(events, "checkpointLate")))
        (late,) = of(leader.events, "checkpointLate")
        status = json.loads(ask(leader, "/status"))
        assert (late["waits"], status["stage"], status["lateSave"]["waits"]) == (True, "saving", True)
        assert late["message"].endswith("; the training waits for it")
        outage.end()
        leader.wait_for(reaches(late["step"] + 3 * EVERY_STEPS))
        group.signal(signal.SIGTERM, 0)
        assert group.wait() == [ExitCode.PREEMPTED]
    committed = [event["step"] for event in of(leader.events, "checkpoint")]
    assert committed[: late["step"] // EVERY_STEPS + 2] == [
        EVERY_STEPS * number for number in range(1, late["step"] // EVERY_STEPS + 3)
    ]


@pytest.mark.variant
@pytest.mark.parametrize("permanent", [[], [{"everySteps": EVERY_STEPS}]], ids=["beside", "waiting"])
def test_a_notice_while_a_save_hangs_ends_in_time_and_says_what_happened(
    tmp_path: Path, gateway: Gateway, s3_root: Root, permanent: list[dict[str, int]]
) -> None:
    with away(tmp_path, gateway, s3_root, permanent=permanent, grace_seconds=limit(6)) as (group, _):
        leader = group.leader
        leader.wait_for(lambda events: bool(of(events, "checkpointLate")))
        group.signal(signal.SIGTERM, 0)
        assert group.wait() == [ExitCode.PREEMPTED]
    report = leader.report()
    assert report["saved"] == "none"
    assert "was not committed in time, and the store has completed no request for " in report["message"]


def test_a_notice_right_after_an_outage_saves_the_last_step(tmp_path: Path, gateway: Gateway, s3_root: Root) -> None:
    """The save that hung for longer than the grace period does not decide how long the next one is expected to take."""
    grace_seconds = limit(6)
    with away(tmp_path, gateway, s3_root, grace_seconds=grace_seconds) as (group, outage):
        leader = group.leader
        threading.Timer(grace_seconds + 1, outage.end).start()
        leader.wait_for(lambda events: bool(of(events, "checkpointLate")))
        late = of(leader.events, "checkpointLate")[0]["step"]
        leader.wait_for(lambda events: any(event["step"] == late for event in of(events, "checkpoint")))
        group.signal(signal.SIGTERM, 0)
        assert group.wait() == [ExitCode.PREEMPTED]
    assert leader.report()["saved"] == "step", leader.report()["message"]
