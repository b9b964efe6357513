"""The network between two processes of a process group is cut: for 5 s, and for longer than any process waits."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from halcyon_api.ends import ExitCode
from tests.faults import rows
from tests.faults.networks import Hosts, two_hosts, why_not
from tests.faults.table import Trials
from tests.trainer.support.process_groups import TrainerProcesses, run_document, start_processes

pytestmark = [pytest.mark.slow, rows.NETWORK, pytest.mark.timeout(900)]

MANY = 1_000_000
SHORT_SECONDS = 5
FATAL = range(80, 87)
PATIENCE = 240


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if reason := why_not():
        pytest.skip(reason)
    with two_hosts() as hosts:
        yield hosts


def start(root: Path, folder: Path, hosts: Hosts | None, restart: int) -> TrainerProcesses:
    """A process group of two that trains until it gets a notice; on two hosts, or on this one."""
    document = run_document(root, steps=MANY)
    document["spec"]["checkpoint"]["save"] = {"everySteps": 5}
    where: dict[str, Any] = {"address": hosts.addresses[0], "inside": hosts.inside} if hosts else {}
    return start_processes(document, folder, restart=restart, **where)


def wait_for_events(group: TrainerProcesses, kind: str, number: int = 1) -> None:
    """Wait until process 0 has written `number` more events of a kind."""
    known = sum(event.get("event") == kind for event in group.leader.events)
    group.leader.wait_for(
        lambda events: sum(event.get("event") == kind for event in events) >= known + number, timeout_seconds=PATIENCE
    )


@pytest.mark.parametrize(
    "long_seconds",
    [
        pytest.param(0, id="until both have ended"),
        pytest.param(300, marks=[pytest.mark.long, pytest.mark.timeout(1200)]),
    ],
)
def test_a_run_resumes_after_its_network_is_cut_and_reconnected(
    tmp_path: Path, hosts: Hosts, trials: Trials, long_seconds: int
) -> None:
    root, folder = tmp_path / "root", tmp_path / "run"
    losses: dict[int, float] = {}
    restart = 0
    group = start(root, folder, hosts, restart)
    try:
        wait_for_events(group, "checkpoint", 2)
        hosts.cut()
        time.sleep(SHORT_SECONDS)  # the duration of the fault
        hosts.reconnect()
        try:
            wait_for_events(group, "step", 5)
            trials.count(f"cuts of {SHORT_SECONDS} s survived")
        except AssertionError:
            codes = group.wait()
            assert not {0, *FATAL} & set(codes), "the exit codes must be ones that are retried"
            restart += 1
            add_losses(losses, group)
            group = start(root, folder, hosts, restart)
            wait_for_events(group, "step", 5)
            trials.count(f"cuts of {SHORT_SECONDS} s that ended in a restart")

        hosts.cut()
        until = time.monotonic() + long_seconds
        codes = group.wait()
        assert not {0, *FATAL} & set(codes), "both must end with codes that are retried"
        add_losses(losses, group)
        before = (root / "HEAD").read_bytes()
        groups = 0
        while groups == 0 or time.monotonic() < until:  # restart as a JobSet does
            groups += 1
            restart += 1
            group = start(root, folder, hosts, restart)
            for process in group.processes:
                process.wait_for(
                    lambda events: any(event.get("event") == "start" for event in events), timeout_seconds=PATIENCE
                )
            while time.monotonic() < until and not ended(group):
                time.sleep(0.5)
            assert not [
                event for process in group.processes for event in process.events if event.get("event") == "joined"
            ]
            assert (root / "HEAD").read_bytes() == before, "only the two together can take the root"
            if ended(group):
                assert not {0, *FATAL} & set(group.wait())
        hosts.reconnect()
        if ended(group):
            restart += 1
            group = start(root, folder, hosts, restart)
        wait_for_events(group, "checkpoint", 2)
        group.signal(signal.SIGTERM, 1)
        assert group.wait() == [ExitCode.PREEMPTED] * 2
    finally:
        group.reap()
    (restored,) = [event["step"] for event in group.leader.events if event.get("event") == "restored"]
    assert restored == json.loads(before)["committed"][0]["step"] > 0
    add_losses(losses, group)
    last = max(losses)
    assert sorted(losses) == list(range(1, last + 1))
    assert json.loads((root / "HEAD").read_bytes())["epoch"] == {"attempt": 1, "restart": restart}

    calm = start(tmp_path / "calm-root", tmp_path / "calm", None, 0)
    try:
        calm.leader.wait_for(
            lambda events: any(event.get("event") == "step" and event["step"] >= last for event in events),
            timeout_seconds=PATIENCE,
        )
        calm.signal(signal.SIGTERM, 0)
        assert calm.wait() == [ExitCode.PREEMPTED] * 2
    finally:
        calm.reap()
    expected = calm.leader.losses()
    assert losses == {step: expected[step] for step in losses}
    trials.count(f"cuts of {long_seconds} s" if long_seconds else "cuts until both had ended")


def add_losses(losses: dict[int, float], group: TrainerProcesses) -> None:
    """Add the losses of a process group; a repeated step must have the same loss."""
    for step, loss in group.leader.losses().items():
        assert losses.setdefault(step, loss) == loss, f"step {step}"


def ended(group: TrainerProcesses) -> bool:
    return any(process.popen.poll() is not None for process in group.processes)
