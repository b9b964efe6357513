"""Process groups of real processes: they join, communicate, stop together, and end together if any of them fails."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from halcyon.host.errors import BadConfiguration
from halcyon.parallel import process_group
from halcyon.parallel.process_group import CouldNotJoin, join
from tests.ports import free_port
from tests.suite.limits import limit
from tests.trainer.support.forked import Forked

pytestmark = pytest.mark.slow

PATIENCE = 240
Events = list[dict[str, Any]]


class Process:
    """A worker process and its output."""

    def __init__(self, coordinator: str, index: int, count: int, task: str, heartbeat_seconds: int) -> None:
        arguments = [coordinator, str(index), str(count), task, str(heartbeat_seconds)]
        self.popen = Forked("tests.trainer.parallel.worker", arguments, os.environ)
        self.events: Events = []
        self._changed = threading.Condition()
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=self._read_events), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read_events(self) -> None:
        with self.popen.stdout as stream:
            for line in stream:
                with self._changed:
                    self.events.append(json.loads(line))
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _read_errors(self) -> None:
        with self.popen.stderr as stream:
            self._errors.extend(stream)

    @property
    def errors(self) -> str:
        return "".join(self._errors)

    def wait_for(self, event: str, times: int = 1) -> None:
        def seen() -> bool:
            return sum(each["event"] == event for each in self.events) >= times

        with self._changed:
            met = self._changed.wait_for(lambda: seen() or self.popen.poll() is not None, limit(PATIENCE))
        assert met, f"no {event}"
        assert seen(), f"ended with {self.popen.returncode}: {self.errors[-2000:]}"

    def one(self, event: str) -> dict[str, Any]:
        (found,) = [each for each in self.events if each["event"] == event]
        return found

    def wait(self) -> int:
        code = self.popen.wait(limit(PATIENCE))
        for reader in self._readers:
            reader.join(limit(PATIENCE))
        self.popen.stdin.close()
        return code


@contextmanager
def started(count: int, task: str, *, heartbeat_seconds: int = 20) -> Iterator[list[Process]]:
    """Start processes. Each counts as lost after `heartbeat_seconds` of silence, on the reference machine."""
    coordinator = f"localhost:{free_port()}"
    processes = [Process(coordinator, index, count, task, heartbeat_seconds) for index in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.popen.kill()
            process.wait()


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.variant)])
def test_processes_join_communicate_and_leave(count: int) -> None:
    with started(count, "talk") as processes:
        assert [process.wait() for process in processes] == [0] * count, processes[0].errors
        for process in processes:
            assert process.one("talked") == {
                "event": "talked",
                "agreed": {"process": 0, "name": "Zoë"},
                "long": 100_000,
                "sum": sum(range(2 * count)),
                "devices": 2 * count,
                "local": 2,
                "processes": count,
                "policies": [os.SCHED_BATCH],
            }
            assert "Traceback" not in process.errors
            assert "fatal" not in process.errors


@pytest.mark.parametrize("noticed", [0, 1])
def test_a_notice_to_one_process_stops_all_at_the_same_step(noticed: int) -> None:
    with started(2, "steps") as processes:
        for process in processes:
            process.wait_for("step", times=20)
        processes[noticed].popen.send_signal(signal.SIGTERM)
        assert [process.wait() for process in processes] == [42, 42], processes[0].errors
        assert processes[0].one("left") == processes[1].one("left")


@pytest.mark.parametrize(
    ("count", "task", "victim"),
    [
        (2, "steps", 0),
        (2, "steps", 1),
        (2, "idle", 0),
        (2, "idle", 1),
        pytest.param(4, "steps", 2, marks=pytest.mark.variant),
    ],
    ids=str,
)
def test_a_killed_process_ends_all_other_processes(count: int, task: str, victim: int) -> None:
    """Inside a collective and outside. The heartbeats alone would take longer than this test waits."""
    with started(count, task) as processes:
        for process in processes:
            process.wait_for("step" if task == "steps" else "idle", times=20 if task == "steps" else 1)
        processes[victim].popen.kill()
        assert processes[victim].wait() == -signal.SIGKILL
        survivors = [process for index, process in enumerate(processes) if index != victim]
        assert all(process.popen.wait(limit(5)) != 0 for process in survivors)


@pytest.mark.parametrize("heartbeat_seconds", [8, pytest.param(20, marks=pytest.mark.variant)])
def test_a_silent_process_is_detected_by_its_missing_heartbeats(heartbeat_seconds: int) -> None:
    """A stopped process keeps its sockets open, so the lifeline reports nothing."""
    with started(2, "steps", heartbeat_seconds=heartbeat_seconds) as processes:
        for process in processes:
            process.wait_for("step", times=5)
        processes[1].popen.send_signal(signal.SIGSTOP)
        assert processes[0].wait() != 0


def test_leaving_does_not_wait_for_a_killed_process() -> None:
    with started(2, "linger") as processes:
        for process in processes:
            process.wait_for("idle")
        processes[1].popen.kill()
        assert processes[0].wait() == 7
        assert processes[0].one("gone")["seconds"] < limit(process_group.LEAVE_TIMEOUT_SECONDS)


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_leaves_alone_keeps_its_exit_code_and_ends_the_others(index: int) -> None:
    """JAX's shutdown would wait for the others and then end all processes with SIGABRT."""
    with started(2, f"leave-alone-{index}") as processes:
        codes = [process.wait() for process in processes]
        assert codes[index] == 85, processes[index].errors
        assert codes[1 - index] == 1, processes[1 - index].errors


def test_a_single_process_joins_without_a_coordinator() -> None:
    assert join(None, 0, 1, None) == process_group.ProcessGroup(0, 1)


@pytest.mark.parametrize(
    ("coordinator", "message"),
    [
        (None, "a run of 2 processes needs the coordinator's address; start it through the operator"),
        ("somewhere", "the coordinator address 'somewhere' must be host:port with a port from 1 to 65535"),
    ],
)
def test_a_bad_coordinator_is_refused(coordinator: str | None, message: str) -> None:
    with pytest.raises(BadConfiguration) as refusal:
        join(coordinator, 1, 2, None)
    assert str(refusal.value) == message


def test_a_missing_coordinator_is_reported() -> None:
    with pytest.raises(
        CouldNotJoin, match=r"process 1 of 2 waited 0 s for the others at .*: the coordinator does not answer"
    ):
        join(f"127.0.0.1:{free_port()}", 1, 2, None, timeout_seconds=0.2)


def test_the_wait_for_missing_processes_ends_after_the_timeout() -> None:
    """Run in a separate process, because JAX continues to wait in the background."""
    program = (
        "import os, sys\n"
        "from halcyon.parallel.process_group import CouldNotJoin, join\n"
        "try:\n"
        f"    join('localhost:{free_port()}', 0, 2, 1, timeout_seconds=1)\n"
        "except CouldNotJoin as error:\n"
        "    print(error, flush=True)\n"
        "    os._exit(5)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=limit(PATIENCE), check=False
    )
    assert ended.returncode == 5
    assert "process 0 of 2 waited 1 s for the others" in ended.stdout
    assert "some of them have not joined" in ended.stdout
