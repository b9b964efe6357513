"""A run as a job of a real SLURM, through a killed process, a notice and a lost node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_devcluster.waiting import until
from tests.slurm import NODES, Slurm, slurm
from tests.trainer.support.process_groups import run_document, start_processes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.variant,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

STEPS = 120


@pytest.fixture
def cluster() -> Iterator[Slurm]:
    with slurm() as running:
        yield running


class Job:
    """A submitted run, with its log."""

    def __init__(self, cluster: Slurm, document: dict[str, Any], folder: Path) -> None:
        folder.mkdir()
        path = folder / "run.yaml"
        path.write_text(yaml.safe_dump(document))
        command = (sys.executable, "-m", "halcyon.commands.main", "slurm", str(path), "--submit")
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

    def starts_again(self, starts: int) -> None:
        """Wait until the job is in the queue and its wait there is shortened, and then for its next start."""
        until(
            lambda: self.cluster.state(self.number) == "PENDING",
            timeout_seconds=60,
            failure=lambda: f"{self.cluster.state(self.number)}: {self.log.read_text()[-2000:]}",
        )
        self.cluster(
            "scontrol", "update", f"jobid={self.number}", "starttime=now+5"
        )  # SLURM refuses it in the same second
        self.waits_for("restored", starts)


def test_a_job_survives_a_kill_a_notice_and_a_lost_node_with_the_same_losses(cluster: Slurm, tmp_path: Path) -> None:
    document = run_document(tmp_path / "job" / "root", steps=STEPS, logEverySteps=1)
    job = Job(cluster, document, tmp_path / "run")
    job.trains()
    os.kill(next(one["processId"] for one in job.events("start") if one["process"] == 1), signal.SIGKILL)
    job.waits_for("restored", 2)
    job.trains()
    cluster("scancel", "--signal=USR1", "--batch", job.number)
    job.starts_again(3)
    job.trains()
    cluster("scontrol", "update", f"nodename={NODES[1]}", "state=down", "reason=test")
    job.starts_again(4)
    until(
        lambda: cluster.state(job.number) not in ("RUNNING", "COMPLETING"),
        timeout_seconds=240,
        failure=lambda: job.log.read_text()[-2000:],
    )
    assert cluster.state(job.number) == "COMPLETED", job.log.read_text()[-2000:]
    restored = job.events("restored")
    assert [one["start"] for one in restored] == ["1", "1", "2", "3"], "one attempt for each time in the queue"
    saved = max(one["step"] for one in job.events("preempted")[:2])
    assert restored[2]["step"] == saved, "a notice repeats no step"
    losses: dict[int, float] = {}
    for one in job.events("step"):
        assert losses.setdefault(one["step"], one["loss"]) == one["loss"], one
    reference = run_document(tmp_path / "undisturbed" / "root", steps=STEPS, logEverySteps=1)
    assert losses == start_processes(reference, tmp_path / "pods").ended().leader.losses()
