"""A run on two hosts that a real sshd gives, started by ``halcyon launch``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from halcyon_api.ends import ExitCode
from halcyon_api.status.run_status import TrainingRunStatus, parse_status
from halcyon_cli.hosts.views import STATUS_KEY
from halcyon_cli.main import app
from halcyon_demo.slurm import supervisor_of
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
    command = (sys.executable, "-m", "halcyon_cli.main", "launch", str(document), "--hosts=127.0.0.1,127.0.0.2")
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


def status_of(root: Path) -> TrainingRunStatus:
    """What the launcher has written into the root."""
    return parse_status(json.loads((root / STATUS_KEY).read_text())["status"])


def test_a_lost_host_takes_its_place_again_and_a_notice_saves_on_all(options: list[str], tmp_path: Path) -> None:
    document = run_document(tmp_path / "hosts" / "root", steps=STEPS, logEverySteps=1)
    path = tmp_path / "hosts" / "run.yaml"
    path.write_text(yaml.safe_dump(document))
    losses: dict[int, float] = {}
    first = launched(path, options)
    try:
        first.wait_for(lambda _: any(one["step"] >= 8 for one in named(first, "step")))
        trainer = next(one["processId"] for one in reversed(named(first, "start")) if one["process"] == 1)
        os.kill(supervisor_of(trainer), signal.SIGKILL)
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
    status = status_of(tmp_path / "hosts" / "root")
    assert (status.phase, status.attempt) == ("Succeeded", 2)
    causes = [(one.attempt, one.in_place, one.cause) for one in status.history]
    assert causes == [(1, 0, "failed"), (1, 1, "preempted"), (2, 0, "completed")]
    assert (status.restarts.total, status.restarts.in_place, status.failures_without_checkpoint) == (2, 1, 0)
    assert status.goodput is not None
    assert status.goodput.seconds.productive_step > 0
    report = CliRunner().invoke(app, ["report", str(path), "--json"])
    assert len(json.loads(report.stdout)["processGroups"]) == 3, "those of the status"
    (again,) = named(second, "restored")
    assert (again["start"], again["step"]) == ("2", max(one["step"] for one in named(first, "preempted")))
    for process in (first, second):
        for one in named(process, "step"):
            assert losses.setdefault(one["step"], one["loss"]) == one["loss"], one
    reference = run_document(tmp_path / "undisturbed" / "root", steps=STEPS, logEverySteps=1)
    assert losses == start_processes(reference, tmp_path / "pods").ended().leader.losses()


def test_a_host_that_ssh_does_not_reach_is_rejected_until_the_user_ends_the_run(
    options: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run_document(tmp_path / "root")))
    process = launched(path, ["-p", "1", *options[2:]])
    process.wait_for(lambda _: any("PodsRejected" in line for line in process.noise))
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == ExitCode.PREEMPTED
    assert "Connection refused" in process.output_tail(), "the words of ssh"
    (first, *_) = status_of(tmp_path / "root").history
    assert (first.cause, "ssh did not reach it (exit code 255)" in (first.message or "")) == ("rejected", True)
