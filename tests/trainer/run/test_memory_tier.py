"""Snapshots in the memory of the pods: real supervisors and trainers on this machine, with `checkpoint.memory`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from halcyon.checkpoint.memory.folder import Folder
from halcyon.commands.main import app
from halcyon.host.storage.store import Store
from halcyon.telemetry.history.reading import read_history
from halcyon_api.ends import ExitCode
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.trainer.run.test_in_place import SHARED, kill, starts, two_pods
from tests.trainer.support.process_groups import TrainerProcesses, run_document, start_processes

pytestmark = pytest.mark.slow


def document(folder: Path, **memory: Any) -> dict[str, Any]:
    """A run with a snapshot after every third step, and a checkpoint only after every fortieth."""
    run = run_document(folder / "root", steps=60, logEverySteps=1)
    run["spec"]["checkpoint"] |= {"save": {"everySteps": 40}, "memory": {"everySteps": 3, **memory}}
    run["spec"]["recovery"] = {"inPlace": True}
    return run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses of the same run without a fault."""
    folder = tmp_path_factory.mktemp("undisturbed")
    group = start_processes(document(folder), folder / "pods")
    group.ended()
    return group.leader.losses()


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[TrainerProcesses]:
    """Two pods after a dozen steps, none of which a checkpoint has."""
    with two_pods(document(tmp_path), tmp_path) as group:
        yield group


def beginning(group: TrainerProcesses, number: int) -> dict[str, Any]:
    """How the start of this number began."""

    def found() -> list[dict[str, Any]]:
        return [event for event in group.leader.events if event.get("event") == "restored"]

    group.leader.wait_for(lambda _: len(found()) > number)
    return found()[number]


def folder(group: TrainerProcesses, index: int) -> Folder:
    """The memory of a pod."""
    return Folder(Path(group.environments[index]["HALCYON_MEMORY"]))


def test_killed_trainers_go_on_from_their_own_memory(pods: TrainerProcesses, undisturbed: dict[int, float]) -> None:
    kill(*(starts(process)[-1] for process in pods.processes))()
    began = beginning(pods, 1)
    assert began["step"] >= 9
    assert began["step"] % 3 == 0
    assert began["ownFiles"] > 0
    assert pods.wait() == [0, 0]
    assert pods.leader.losses() == undisturbed
    proved = CliRunner().invoke(app, ["prove", f"file://{pods.root}"])
    assert proved.exit_code == 0, proved.output
    history = read_history(Store(CheckpointSpec(root=f"file://{pods.root}")))
    assert [row["step"] for row in history.steps] == list(range(1, 61))


def test_a_lost_pod_goes_on_from_the_memory_of_the_other(pods: TrainerProcesses, undisturbed: Any) -> None:
    there, lost = folder(pods, 0), pods.processes[1]
    pods.leader.wait_for(lambda _: any(part.process == 1 and part.step >= 6 for part in there.parts()))
    lost.popen.kill()
    lost.wait()
    pods.renewed(1).follow()
    began = beginning(pods, 1)
    assert began["step"] >= 6
    assert began["peerFiles"] > 0
    assert pods.wait() == [0, 0]
    assert pods.leader.losses() == undisturbed


def test_two_lost_pods_fall_back_to_the_store(pods: TrainerProcesses, undisturbed: Any) -> None:
    for process in pods.processes:
        process.popen.kill()
        process.wait()
    before = pods.leader.losses()
    for index in range(2):
        pods.renewed(index).follow()
    assert pods.wait() == [ExitCode.NOT_REJOINED] * 2, "so the JobSet makes all pods again"
    for index in range(2):
        pods.environments[index]["HALCYON_RESTART"] = "1"
        pods.renewed(index).follow()
    assert beginning(pods, 0)["step"] == 0
    assert pods.wait() == [0, 0]
    assert before | pods.leader.losses() == undisturbed


def test_a_changed_byte_in_memory_is_found(pods: TrainerProcesses, undisturbed: dict[int, float]) -> None:
    own, other = (folder(pods, index) for index in (1, 0))
    pods.leader.wait_for(lambda _: any(part.process == 1 and part.step >= 9 for part in other.parts()))
    for process in pods.processes:
        process.popen.send_signal(signal.SIGSTOP)  # so that no process starts while bytes are changed
    kill(*(starts(process)[-1] for process in pods.processes))()
    changed = {own.file(1, part.files[0].sha256) for part in own.parts() if part.process == 1}
    for place in changed:
        data = place.read_bytes()
        place.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    for process in pods.processes:
        process.popen.send_signal(signal.SIGCONT)
    began = beginning(pods, 1)
    assert began["step"] >= 9
    assert began["peerFiles"] > 0
    assert pods.wait() == [0, 0]
    assert pods.leader.losses() == undisturbed


def test_all_processes_take_a_snapshot_when_it_costs_one_of_them_little(tmp_path: Path, undisturbed: Any) -> None:
    run = document(tmp_path)
    run["spec"]["checkpoint"]["memory"] = {}
    group = start_processes(run, tmp_path / "pods", supervised=True, save_token=SHARED)
    try:
        group.leader.wait_for(lambda _: {part.process for part in folder(group, 1).parts()} == {0, 1})
        kept = folder(group, 1).parts()
        assert len({part.step for part in kept}) == 1
        kill(*(starts(process)[-1] for process in group.processes))()
        assert beginning(group, 1)["step"] == kept[0].step
        assert group.wait() == [0, 0]
        assert group.leader.losses() == undisturbed
    finally:
        group.reap()
