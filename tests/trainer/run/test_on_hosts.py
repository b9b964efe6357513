"""Runs on several hosts without a cluster: real processes, each started as another launcher would."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon.host.errors import BadConfiguration
from halcyon.host.launchers import Member
from halcyon.run.on_hosts import supervise
from halcyon_api.ends import ExitCode
from tests.ports import free_port
from tests.trainer.support.process_groups import Process, run_document, start_processes

STEPS = 40


def variables(launcher: str, process: int, port: int) -> dict[str, str]:
    """What a launcher tells a process of two."""
    if launcher == "torchrun":
        return {
            "RANK": str(process),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(port - 1),
        }
    return {}


def started(document: dict[str, Any], folder: Path, launcher: str) -> list[Process]:
    """The processes of a run on two hosts, which are this machine."""
    folder.mkdir()
    path, port, found = folder / "run.yaml", free_port(), list[Process]()
    path.write_text(yaml.safe_dump(document))
    for process in range(2):
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HALCYON_", "XLA_"))}
        options = ["--coordinator", f"localhost:{port}", "--processes", "2", "--process", str(process)]
        popen = subprocess.Popen(
            [
                *(sys.executable, "-m", "halcyon.commands.main", "train", str(path)),
                *("--compilation-cache", str(folder / "xla")),
                *(options if launcher == "options" else ()),
            ],
            env=inherited | {"JAX_PLATFORMS": "cpu"} | variables(launcher, process, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        found.append(Process(process, popen, folder / f"termination-{process}"))
        found[-1].follow()
    return found


def named(process: Process, event: str) -> list[dict[str, Any]]:
    return [one for one in process.events if one.get("event") == event]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", pytest.param("options", marks=pytest.mark.variant)])
def test_a_run_on_two_hosts_starts_again_in_place_and_has_the_losses_of_the_cluster(
    launcher: str, tmp_path: Path
) -> None:
    document = run_document(tmp_path / "hosts" / "root", steps=STEPS, logEverySteps=1)
    processes = started(document, tmp_path / "hosts" / "run", launcher)
    leader = processes[0]
    try:
        leader.wait_for(lambda _: any(one["step"] >= 12 for one in named(leader, "step")))
        os.kill(named(processes[1], "start")[-1]["processId"], signal.SIGKILL)
        assert [process.wait() for process in processes] == [ExitCode.DONE, ExitCode.DONE], leader.output_tail()
    finally:
        for process in processes:
            process.popen.kill()
    first, second = named(leader, "restored")
    assert first["step"] == 0 < second["step"]
    assert first["start"] == second["start"] == "1"  # one attempt
    of_cluster = run_document(tmp_path / "cluster" / "root", steps=STEPS, logEverySteps=1)
    assert leader.losses() == start_processes(of_cluster, tmp_path / "pods").ended().leader.losses()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"accelerator": {"type": "cpu", "topology": "1x1", "slices": 3}}, "3 hosts of 1 device, which 2 processes"),
        ({"checkpoint": {"memory": {}}}, "spec.checkpoint.memory: the hosts send each other the state"),
    ],
)
def test_a_document_that_cannot_run_so_gets_one_sentence(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    document = run_document(tmp_path / "root")
    for section, change in changes.items():
        document["spec"][section] |= change
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(BadConfiguration) as error:
        supervise(path, Member(0, 2, "localhost:9000"), None)
    assert sentence in str(error.value)


def test_a_name_without_an_address_is_one_sentence_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run_document(tmp_path / "root")))
    with pytest.raises(BadConfiguration) as error:
        supervise(path, Member(0, 2, "nowhere.invalid:9000"), None)
    assert "--coordinator: this machine finds no address of nowhere.invalid" in str(error.value)


def test_a_port_that_another_program_has_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run_document(tmp_path / "root")))
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        command = (sys.executable, "-m", "halcyon.commands.main", "train", str(path))
        place = ("--coordinator", f"localhost:{port - 1}", "--processes", "2", "--process", "0")
        said = subprocess.run([*command, *place], capture_output=True, text=True, check=False)
    assert said.returncode == ExitCode.BAD_CONFIGURATION
    assert said.stderr == (
        f"--coordinator: another program of this machine has port {port}, at which the hosts meet; give another one\n"
    )
