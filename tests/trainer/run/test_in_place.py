"""Processes that start again in their pods: real supervisors and trainers on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.suite.limits import limit
from tests.trainer.support.process_groups import Process, TrainerProcesses, run_document, start_processes

pytestmark = pytest.mark.slow
SHARED = "secret"


def steps(process: Process) -> list[int]:
    """All steps that the log names, repeated ones too."""
    return [event["step"] for event in process.events if event.get("event") == "step"]


def starts(process: Process) -> list[int]:
    """The pid of each trainer of a pod."""
    return [event["processId"] for event in process.events if event.get("event") == "start"]


def status(process: Process) -> dict[str, Any]:
    """The trainer's ``/status``."""
    with urllib.request.urlopen(f"http://127.0.0.1:{process.port}/status", timeout=limit(30)) as answer:
        return dict(json.load(answer))


def document(folder: Path) -> dict[str, Any]:
    """A run with a checkpoint after every fifth step."""
    return run_document(folder / "root", steps=60, logEverySteps=1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses of the same run without a fault."""
    folder = tmp_path_factory.mktemp("undisturbed")
    group = start_processes(document(folder), folder / "pods")
    group.ended()
    return group.leader.losses()


@contextmanager
def two_pods(run: dict[str, Any], folder: Path) -> Iterator[TrainerProcesses]:
    """A run of two pods, each with a supervisor, after a dozen steps."""
    group = start_processes(run, folder / "pods", supervised=True, save_token=SHARED)
    try:
        group.leader.wait_for(lambda _: max(steps(group.leader), default=0) >= 12)
        yield group
    finally:
        group.reap()


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[TrainerProcesses]:
    """Two such pods."""
    with two_pods(document(tmp_path), tmp_path) as group:
        yield group


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the supervisor beside process 0, whose trainer waits for another pod that never comes."""
    folder = tmp_path_factory.mktemp("alone")
    group = start_processes(document(folder), folder / "pods", supervised=True, save_token=SHARED)
    try:
        kill(group.processes[1].popen.pid)()
        group.leader.wait_for(lambda _: bool(starts(group.leader)))
        yield int(group.environments[0]["HALCYON_AGENT_PORT"])
        assert not group.leader.ended
    finally:
        group.reap()


def goes_on(group: TrainerProcesses, fault: Callable[[], object]) -> dict[str, Any]:
    """The status after a fault and three more steps."""
    before = len(starts(group.leader))
    fault()
    group.leader.wait_for(lambda _: len(starts(group.leader)) > before)
    seen = len(steps(group.leader))
    group.leader.wait_for(lambda _: len(steps(group.leader)) >= seen + 3)
    return status(group.leader)


def kill(*pids: int) -> Callable[[], None]:
    """A fault: these processes are killed."""
    return lambda: [os.kill(pid, signal.SIGKILL) for pid in pids] and None


def test_killed_trainers_start_again_in_their_pods(pods: TrainerProcesses, undisturbed: dict[int, float]) -> None:
    first, second = (starts(process)[-1] for process in pods.processes)
    report = goes_on(pods, kill(second))
    (end,) = report["endsInPlace"]
    assert (end["number"], end["process"], end["exitCode"]) == (1, 1, 128 + signal.SIGKILL)
    assert starts(pods.leader)[-1] != first, "the other process starts again too"
    pods.leader.wait_for(lambda _: max(steps(pods.leader)) >= 30)
    report = goes_on(pods, kill(*(starts(process)[-1] for process in pods.processes)))
    assert (report["inPlace"], len(report["endsInPlace"])) == (2, 2)
    assert pods.wait() == [0, 0]
    assert pods.leader.report()["cause"] == "completed"
    assert pods.leader.losses() == undisturbed


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b'{"hello":1,"token":"","group":"1.0","known":null}\n',
        b'{"hello":1,"token":"secret","group":"1.1","known":null}\n',
        b'{"hello":7,"token":"secret","group":"1.0","known":null}\n',
        b'{"ended":{"exitCode":1}}\n',
        b"[" * 100_000 + b"\n",
        b"x" * 2**19,
    ],
)
def test_a_stranger_is_turned_away(sent: bytes, supervisor: int) -> None:
    with socket.create_connection(("127.0.0.1", supervisor), timeout=limit(30)) as stranger:
        with suppress(OSError):
            stranger.sendall(sent)
        with suppress(ConnectionError):
            while stranger.recv(1024):  # it may get signs of life until then
                pass


def test_a_notice_to_one_pod_ends_this_pod_alone(tmp_path: Path, pods: TrainerProcesses, undisturbed: Any) -> None:
    pods.signal(signal.SIGTERM, 1)
    assert pods.processes[1].wait() == 42
    pods.leader.wait_for(lambda _: len(starts(pods.leader)) == 2)
    assert not pods.leader.ended, "it waits in its pod"
    new = pods.renewed(1)
    new.follow()
    assert pods.wait() == [0, 0]
    assert new.events[0]["restart"] == 0
    assert pods.leader.losses() == undisturbed
    assert len(steps(pods.leader)) == 60, "no step is repeated"


def test_a_pod_of_process_0_that_is_lost_with_its_supervisor(pods: TrainerProcesses, undisturbed: Any) -> None:
    lost, before = pods.leader, starts(pods.processes[1])
    lost.popen.send_signal(signal.SIGKILL)
    lost.wait()
    pods.renewed(0).follow()
    pods.leader.wait_for(lambda _: len(steps(pods.leader)) >= 3)
    report = status(pods.leader)
    (end,) = report["endsInPlace"]
    assert (report["inPlace"], end["process"], end["podLost"]) == (1, 0, True)
    assert pods.wait() == [0, 0]
    assert len(starts(pods.processes[1])) == len(before) + 1
    assert lost.losses() | pods.leader.losses() == undisturbed


@pytest.mark.parametrize(("left", "code"), [("1", 43), ("0", 1)])
def test_pods_that_replace_all_others_leave_the_run_to_the_next_restart(
    left: str, code: int, pods: TrainerProcesses
) -> None:
    for process in list(pods.processes):
        process.popen.send_signal(signal.SIGKILL)
        process.wait()
    for number in range(2):
        pods.environments[number]["HALCYON_RESTARTS_LEFT"] = left
        pods.renewed(number).follow()
    assert pods.wait() == [code, code]
    assert "were lost at once" in pods.leader.report()["message"]


def test_a_crash_loop_ends_the_pods(tmp_path: Path) -> None:
    run = document(tmp_path)
    run["spec"]["checkpoint"]["save"] = {"everySteps": 1000}
    group = start_processes(run, tmp_path / "pods", supervised=True)
    try:
        group.leader.wait_for(lambda _: max(steps(group.leader), default=0) >= 2)
        goes_on(group, kill(starts(group.processes[1])[-1]))
        kill(starts(group.processes[1])[-1])()
        assert group.wait() == [1, 1]
        (end,) = group.leader.report()["endsInPlace"]
        assert (end["number"], end["process"], end["exitCode"]) == (1, 1, 137), (
            "its pod says what nobody may have asked"
        )
    finally:
        group.reap()


def test_a_reserved_exit_code_ends_its_pod(tmp_path: Path) -> None:
    run = document(tmp_path)
    run["spec"]["data"]["sources"][0]["text"]["paths"] = [str(tmp_path / "nothing")]
    group = start_processes(run, tmp_path / "pods", supervised=True)
    try:
        assert group.leader.wait() == 80
        assert group.leader.report()["cause"] == "badConfiguration"
    finally:
        group.reap()
