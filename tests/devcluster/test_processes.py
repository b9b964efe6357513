"""A process is stopped by its id *and* start time: another process that got the same id is never touched."""

import dataclasses
import json
import os
import platform
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from halcyon_devcluster.processes import Processes, alive, parse_stat
from halcyon_devcluster.waiting import until


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    running = Processes(tmp_path / "records", tmp_path / "logs")
    yield running
    running.stop("it", force=True)


@pytest.fixture
def members(tmp_path: Path) -> Path:
    """In place of the cgroup's process file: an ordinary file that shows which processes joined."""
    return tmp_path / "cgroup.procs"


def wait_for_text(path: Path, text: str) -> None:
    until(
        lambda: path.exists() and text in path.read_text(),
        timeout_seconds=10,
        failure=lambda: f"{path} never held {text!r}",
    )


def test_a_process_joins_the_group_before_its_program_starts(processes: Processes, members: Path, tmp_path: Path):
    record = processes.start("it", ["/bin/sh", "-c", f"cat {members}; exec sleep 60"], members)
    wait_for_text(tmp_path / "logs/it.log", str(record.pid))
    assert members.read_text() == f"{record.pid}\n"
    assert processes.running("it") == record


def test_stop_ends_the_process_and_removes_its_record(processes: Processes, members: Path):
    record = processes.start("it", ["/bin/sleep", "60"], members)
    processes.stop("it")
    assert not alive(record)
    assert processes.find("it") is None
    processes.stop("it")


def test_a_process_that_ignores_sigterm_is_killed(processes: Processes, members: Path, tmp_path: Path):
    script = "trap '' TERM; echo ready; while true; do sleep 0.05; done"
    record = processes.start("it", ["/bin/sh", "-c", script], members)
    wait_for_text(tmp_path / "logs/it.log", "ready")
    processes.stop("it", grace_seconds=0.2)
    assert not alive(record)


@pytest.mark.parametrize("change", [{"started_ticks": 1}, {"boot": "another-boot"}], ids=["start time", "boot"])
def test_a_recycled_process_id_is_left_alone(
    processes: Processes, members: Path, tmp_path: Path, change: dict[str, object]
):
    record = processes.start("it", ["/bin/sleep", "60"], members)
    document = tmp_path / "records/it.json"
    stale = dataclasses.replace(record, **change)  # type: ignore[arg-type]
    document.write_text(json.dumps(dataclasses.asdict(stale)))
    assert processes.running("it") is None
    processes.stop("it", force=True)
    assert alive(record)
    os.kill(record.pid, signal.SIGKILL)
    until(lambda: not alive(record), timeout_seconds=10, failure=lambda: "it still runs")


LEADER_GONE = """
import ctypes, socket, threading, time
listener = socket.create_server(("127.0.0.1", 0))
def hold():
    print("port", listener.getsockname()[1], flush=True)
    time.sleep(60)
threading.Thread(target=hold).start()
ctypes.CDLL(None).syscall(60, 0)  # exit of this thread alone
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of the system call is that of x86_64")
def test_a_process_without_its_first_thread_counts_as_alive(processes: Processes, members: Path, tmp_path: Path):
    """As while the kernel frees the memory of a killed server: a new server would find the port in use."""
    record = processes.start("it", [sys.executable, "-c", LEADER_GONE], members)
    wait_for_text(tmp_path / "logs/it.log", "port")
    until(lambda: _state(record.pid) == "Z", timeout_seconds=10, failure=lambda: "its first thread does not end")
    assert alive(record)
    processes.stop("it")
    assert not alive(record)
    port = int((tmp_path / "logs/it.log").read_text().split()[1])
    socket.create_server(("127.0.0.1", port)).close()


def _state(pid: int) -> str:
    return parse_stat(Path(f"/proc/{pid}/stat").read_text())[0]
