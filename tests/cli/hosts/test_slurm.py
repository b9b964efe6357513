"""A run as a job of a real SLURM, through a killed process, a notice and a lost node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_devcluster.waiting import until
from tests.cli.hosts.test_ssh import status_of, supervisor_of
from tests.slurm import NODES, Slurm, slurm
from tests.trainer.support.process_groups import run_document, start_processes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.variant,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

STEPS = 240


@pytest.fixture
def cluster() -> Iterator[Slurm]:
    with slurm() as running:
        yield running


class Job:
    """A submitted run, with its log."""

    def __init__(self, cluster: Slurm, document: dict[str, Any], folder: Path, *options: str) -> None:
        folder.mkdir()
        path = folder / "run.yaml"
        path.write_text(yaml.safe_dump(document))
        command = (sys.executable, "-m", "halcyon_cli.main", "slurm", str(path), "--submit", *options)
        environ = {**cluster.environ, "JAX_PLATFORMS": "cpu", "HALCYON_COMPILATION_CACHE": str(folder / "xla")}
        said = subprocess.run(
            [*command, "--", f"--chdir={folder}"], env=environ, check=True, capture_output=True, text=True
        ).stdout
        self.cluster, self.number = cluster, said.split()[-1]
        self.log = folder / f"{document['metadata']['name']}-{self.number}.log"

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of this name."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [one for one in found if one["event"] == name]

    def trainer(self, process: int) -> int:
        """The process id of a trainer."""
        return next(one["processId"] for one in reversed(self.events("start")) if one["process"] == process)

    def ends(self, state: str) -> None:
        """Wait until the job has ended, in this state."""
        until(
            lambda: self.cluster.state(self.number) not in ("PENDING", "RUNNING", "COMPLETING"),
            timeout_seconds=240,
            failure=lambda: self.log.read_text()[-2000:],
        )
        assert self.cluster.state(self.number) == state, self.log.read_text()[-2000:]

    def waits_for(self, what: str, number: int) -> None:
        """Wait for this number of events."""
        until(
            lambda: len(self.events(what)) >= number,
            timeout_seconds=240,
            failure=lambda: f"{self.cluster.state(self.number)}: {self.log.read_text()[-2000:]}",
        )

    def trains(self, steps: int = 8) -> None:
        """Wait for this many more steps."""
        self.waits_for("step", len(self.events("step")) + steps)

    def disturbed(self, disturb: Callable[[], object]) -> None:
        """Disturb the job, and wait until it trains again."""
        starts = len(self.events("restored"))
        disturb()
        self.waits_for("restored", starts + 1)
        self.trains()

    def starts_again(self, node: str) -> None:
        """Wait until the job is in the queue. Let this node work again and shorten the wait; then wait for the start."""
        starts = len(self.events("restored"))
        until(
            lambda: self.cluster.state(self.number) == "PENDING",
            timeout_seconds=60,
            failure=lambda: f"{self.cluster.state(self.number)}: {self.log.read_text()[-2000:]}",
        )
        self.cluster("scontrol", "update", f"nodename={node}", "state=resume")
        self.cluster(
            "scontrol", "update", f"jobid={self.number}", "starttime=now+5"
        )  # SLURM refuses it in the same second
        self.waits_for("restored", starts + 1)


def test_a_job_survives_kills_notices_and_lost_nodes_with_the_same_losses(cluster: Slurm, tmp_path: Path) -> None:
    root = tmp_path / "job" / "root"
    document = run_document(root, steps=STEPS, logEverySteps=1)
    job = Job(cluster, document, tmp_path / "run", "--spares=1")
    job.trains()
    job.disturbed(lambda: os.kill(job.trainer(1), signal.SIGKILL))
    while status_of(root).attempt == 1:  # the second failure on the node, or a later one if it came before a report
        job.disturbed(lambda: os.kill(supervisor_of(job.trainer(1)), signal.SIGKILL))
    assert cluster.state(job.number) == "RUNNING", "the spare node takes the place of the blamed one"
    cluster("scontrol", "update", f"nodename={NODES[2]}", "state=down", "reason=test")
    job.starts_again(NODES[2])
    job.trains()
    job.disturbed(lambda: cluster("scontrol", "update", f"nodename={NODES[2]}", "state=down", "reason=test"))
    assert (cluster.state(job.number), status_of(root).attempt) == ("RUNNING", 3), "the spare node takes its place"
    cluster("scancel", "--signal=USR1", "--batch", job.number)
    job.starts_again(NODES[2])
    job.ends("COMPLETED")
    restored = job.events("restored")
    assert list(dict.fromkeys(one["start"] for one in restored)) == ["1", "2", "3", "4"]
    saved = max(one["step"] for one in job.events("preempted") if one["attempt"] == 3)
    assert restored[-1]["step"] == saved, "a notice repeats no step"
    status = status_of(root)
    assert (status.phase, status.attempt) == ("Succeeded", 4)
    assert status.restarts.in_place >= 3
    assert status.placement is not None
    assert [one.node for one in status.placement.avoided] == [NODES[1]]
    of = {entry.attempt: entry.cause for entry in status.history}
    assert of == {1: "moved", 2: "preempted", 3: "preempted", 4: "completed"}
    assert status.goodput is not None
    assert status.goodput.seconds.capacity_wait > 5, "the time in the queue"
    losses: dict[int, float] = {}
    for one in job.events("step"):
        assert losses.setdefault(one["step"], one["loss"]) == one["loss"], one
    reference = run_document(tmp_path / "undisturbed" / "root", steps=STEPS, logEverySteps=1)
    assert losses == start_processes(reference, tmp_path / "pods").ended().leader.losses()


def test_a_crash_loop_ends_the_job_and_not_in_the_queue(cluster: Slurm, tmp_path: Path) -> None:
    document = run_document(tmp_path / "job" / "root", steps=STEPS)
    document["spec"]["recovery"] = {"maxRestarts": 1}
    document["spec"]["env"] = [{"name": "XLA_FLAGS", "value": "--no_such_flag=1"}]
    job = Job(cluster, document, tmp_path / "run")
    job.ends("FAILED")
    stalled = status_of(tmp_path / "job" / "root").condition("Stalled")
    assert stalled is not None
    assert stalled.reason == "RestartsExhausted"
