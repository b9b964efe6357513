"""A run on two hosts that a real sshd gives, started by ``halcyon launch``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from halcyon_api.ends import ExitCode
from tests.ports import free_port
from tests.ssh import ssh_server
from tests.trainer.run.test_on_hosts import named
from tests.trainer.support.process_groups import Process, run_document, start_processes

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="sshd needs root")]

STEPS = 60


@pytest.fixture
def options() -> Iterator[list[str]]:
    with ssh_server() as found:
        yield found


def launched(document: Path, options: list[str]) -> Process:
    """The launcher, whose output is that of both hosts."""
    command = (sys.executable, "-m", "halcyon.commands.main", "launch", str(document), "--hosts=127.0.0.1,127.0.0.2")
    popen = subprocess.Popen(
        [*command, f"--coordinator=localhost:{free_port()}", "--", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    found = Process(0, popen, document.with_suffix(".none"))
    found.follow()
    return found


def supervisor(process: Process, index: int) -> int:
    """The process id of the supervisor of a host."""
    trainer = next(one["processId"] for one in reversed(named(process, "start")) if one["process"] == index)
    status = Path(f"/proc/{trainer}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("PPid:")))


def test_a_lost_host_takes_its_place_again_and_a_notice_saves_on_all(options: list[str], tmp_path: Path) -> None:
    document = run_document(tmp_path / "hosts" / "root", steps=STEPS, logEverySteps=1)
    path = tmp_path / "hosts" / "run.yaml"
    path.write_text(yaml.safe_dump(document))
    losses: dict[int, float] = {}
    first = launched(path, options)
    try:
        first.wait_for(lambda _: any(one["step"] >= 8 for one in named(first, "step")))
        os.kill(supervisor(first, 1), signal.SIGKILL)
        first.wait_for(lambda _: len(named(first, "restored")) == 2)
        began = named(first, "restored")[1]
        assert (began["start"], began["step"] > 0) == ("1", True), "the other host's supervisor has stayed"
        first.wait_for(lambda _: len(named(first, "step")) >= 20)
        first.popen.send_signal(signal.SIGTERM)
        assert first.wait() == ExitCode.PREEMPTED, first.output_tail()
    finally:
        first.popen.kill()
    second = launched(path, options)
    try:
        assert second.wait() == ExitCode.DONE, second.output_tail()
    finally:
        second.popen.kill()
    (again,) = named(second, "restored")
    assert (again["start"], again["step"]) == ("2", max(one["step"] for one in named(first, "preempted")))
    for process in (first, second):
        for one in named(process, "step"):
            assert losses.setdefault(one["step"], one["loss"]) == one["loss"], one
    reference = run_document(tmp_path / "undisturbed" / "root", steps=STEPS, logEverySteps=1)
    assert losses == start_processes(reference, tmp_path / "pods").ended().leader.losses()


def test_a_host_that_ssh_does_not_reach_ends_the_run_with_the_words_of_ssh(options: list[str], tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run_document(tmp_path / "root")))
    process = launched(path, ["-p", "1", *options[2:]])
    assert process.wait() == 255
    assert "Connection refused" in process.output_tail()
    assert "host 127.0.0.2 is lost (exit code 255), and is started again" in process.output_tail()
