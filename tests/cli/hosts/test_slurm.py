"""A run as a job of a real SLURM, through a killed process, a notice and a lost node."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api.ends import ExitCode
from halcyon_demo.slurm import NODES, Job, Slurm, down, slurm, supervisor_of
from tests.cli.hosts.test_ssh import launched, status_of
from tests.ssh import ssh_server
from tests.trainer.run.test_on_hosts import started
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


def disturbed(job: Job, disturb: Callable[[], object]) -> None:
    """Disturb the job, and wait until it trains again."""
    starts = len(job.lines("restored"))
    disturb()
    job.waits_for("restored", starts + 1)
    job.trains()


def starts_again(job: Job) -> None:
    """Wait until the job has been in the queue, and has started."""
    starts = len(job.lines("restored"))
    job.requeued()
    job.waits_for("restored", starts + 1)


def avoided(root: Path) -> list[str]:
    placement = status_of(root).placement
    return [] if placement is None else [one.node for one in placement.avoided]


def test_a_job_survives_kills_notices_and_lost_nodes_with_the_same_losses(cluster: Slurm, tmp_path: Path) -> None:
    root = tmp_path / "job" / "root"
    document = run_document(root, steps=STEPS, logEverySteps=1)
    job = Job(cluster, document, tmp_path / "run", "--spares=1")
    job.trains()
    disturbed(job, lambda: os.kill(job.trainer(1), signal.SIGKILL))
    while not avoided(root):  # the second failure on the node, or a later one if it came before a report
        disturbed(job, lambda: os.kill(supervisor_of(job.trainer(1)), signal.SIGKILL))
    assert (job.state, status_of(root).attempt) == ("RUNNING", 1), "process 1 goes to the spare node, process 0 stays"
    down(cluster, NODES[2])
    starts_again(job)
    job.trains()
    disturbed(job, lambda: down(cluster, NODES[2]))
    assert (job.state, status_of(root).attempt) == ("RUNNING", 2), "the spare node takes its place"
    cluster("scancel", "--signal=USR1", "--batch", job.number)
    starts_again(job)
    job.ends("COMPLETED")
    restored = job.lines("restored")
    assert list(dict.fromkeys(one.fields["start"] for one in restored)) == ["1", "2", "3"]
    saved = max(one.step for one in job.lines("preempted") if one.group[0] == 2)
    assert restored[-1].step == saved, "a notice repeats no step"
    status = status_of(root)
    assert (status.phase, status.attempt) == ("Succeeded", 3)
    assert status.restarts.in_place >= 3
    assert avoided(root) == [NODES[1]]
    of = {entry.attempt: entry.cause for entry in status.history}
    assert of == {1: "preempted", 2: "preempted", 3: "completed"}
    assert status.goodput is not None
    assert status.goodput.seconds.capacity_wait > 5, "the time in the queue"
    losses: dict[int, float] = {}
    for one in job.lines("step"):
        assert losses.setdefault(one.step, one.fields["loss"]) == one.fields["loss"], one
    reference = run_document(tmp_path / "undisturbed" / "root", steps=STEPS, logEverySteps=1)
    assert losses == start_processes(reference, tmp_path / "pods").ended().leader.losses()


def test_slurm_launch_plain_processes_and_a_cluster_give_a_document_the_same_bits(
    cluster: Slurm, tmp_path: Path
) -> None:
    def document(name: str) -> dict[str, Any]:
        return run_document(tmp_path / name / "root", steps=12, logEverySteps=1)

    job = Job(cluster, document("job"), tmp_path / "run")
    job.ends("COMPLETED")
    with ssh_server() as options:
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(document("ssh")))
        hosts = launched(path, options)
        assert hosts.wait() == ExitCode.DONE, hosts.output_tail()
    plain = started(document("plain"), tmp_path / "hosts", "options")
    assert [one.wait() for one in plain] == [ExitCode.DONE] * 2, plain[0].output_tail()
    pods = start_processes(document("pods"), tmp_path / "pods").ended()
    found = [{one.step: one.fields["loss"] for one in job.lines("step")}, hosts.losses()]
    found += [plain[0].losses(), pods.leader.losses()]
    assert sorted(found[0]) == list(range(1, 13))
    assert found == [found[0]] * 4


def test_a_crash_loop_ends_the_job_and_not_in_the_queue(cluster: Slurm, tmp_path: Path) -> None:
    document = run_document(tmp_path / "job" / "root", steps=STEPS)
    document["spec"]["recovery"] = {"maxRestarts": 1}
    document["spec"]["env"] = [{"name": "XLA_FLAGS", "value": "--no_such_flag=1"}]
    job = Job(cluster, document, tmp_path / "run")
    job.ends("FAILED")
    stalled = status_of(tmp_path / "job" / "root").condition("Stalled")
    assert stalled is not None
    assert stalled.reason == "RestartsExhausted"
