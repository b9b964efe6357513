"""Real trainers start again in their pods: each fault replaces only the pod that it hit, and the losses are those of an
undisturbed run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from halcyon_api import names
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_demo.comparison import compare, losses
from halcyon_demo.documents import variant
from halcyon_demo.training import RESOURCE, Training
from halcyon_devcluster.waiting import until
from tests.cluster.life import UNENDING, WITHOUT_END
from tests.cluster.whole_path import WholePath

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200), pytest.mark.xdist_group("path")]
NAME, REFERENCE = "in-place", "in-place-reference"
SAVE_EVERY = 20


@dataclass(frozen=True)
class Faults:
    """Faults of a run, and what they cost."""

    path: WholePath
    training: Training

    def pods(self) -> dict[int, str]:
        """The UIDs of the pods that are not over, by slice."""
        selector = f"{names.LABEL_RUN}={NAME}"
        found = self.path.devcluster.kubectl.json(
            "get", "pods", "--namespace", self.path.place.runs, f"--selector={selector}"
        )
        return {
            int(pod["metadata"]["labels"][names.JOBSET_JOB_INDEX]): pod["metadata"]["uid"]
            for pod in found["items"]
            if pod["status"]["phase"] in ("Pending", "Running") and "deletionTimestamp" not in pod["metadata"]
        }

    def status(self) -> TrainingRunStatus:
        """The status of the run."""
        run = self.training.run
        assert run is not None
        return run.status

    def starts(self) -> int:
        """How often the processes have restored the state."""
        return sum(line.event == "restored" for line in self.training.lines())

    def kill_trainers(self, *numbers: int) -> None:
        """SIGKILL the trainers of these slices at the same time, and not their supervisors."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.training.kill, numbers))

    def kill_supervisor(self, number: int) -> None:
        """SIGKILL the first process of the pod of a slice."""
        pod = self.training.running_pod(number).name
        self.path.devcluster.faults.kill_container(self.path.place.runs, pod)

    def suspends_and_resumes(self) -> None:
        """Suspend the run after these starts in place, and resume it."""
        where = (RESOURCE, NAME, "--namespace", self.path.place.runs, "--type=merge")
        self.path.devcluster.kubectl("patch", *where, '--patch={"spec": {"suspend": true}}')
        self.training.wait_for_phase("Suspended")
        last = self.training.step()
        self.path.devcluster.kubectl("patch", *where, '--patch={"spec": {"suspend": false}}')
        self.training.wait_for_step(last + 1)

    def strikes(self, title: str, fault: Callable[[], object], lost: set[int]) -> None:
        """The run goes on after a fault, and only these slices have new pods."""
        self.training.wait_for_step(self.training.step() + 2 * SAVE_EVERY)  # a checkpoint of this start
        pods, starts, began = self.pods(), self.starts(), time.monotonic()
        fault()
        until(lambda: self.starts() > starts, timeout_seconds=180, failure=lambda: f"{title}: no start")
        seconds = time.monotonic() - began
        restored = [line for line in self.training.lines() if line.event == "restored"][-1]
        self.training.wait_for_step(restored.step + 1)
        now = self.pods()
        print(f"{title}: restored step {restored.step} ({restored.fields['path']}) after {seconds:.1f} s")
        assert {number for number in pods if pods[number] != now.get(number)} == lost, title


def test_a_fault_replaces_only_the_pod_that_it_hit(path: WholePath) -> None:
    document = variant(path.document, name=NAME)
    document["spec"]["optimizer"] = {"learningRate": 0.001, **UNENDING}
    document["spec"]["trainer"] = {"steps": WITHOUT_END, "batchSize": 8, "sequenceLength": 32}
    document["spec"]["checkpoint"]["memory"] = {"everySteps": 4}
    training = path.training_of(document)
    try:
        training.apply()
        training.wait_for_step(1)
        faults = Faults(path, training)
        faults.strikes("SIGKILL of a trainer", lambda: faults.kill_trainers(1), set())
        faults.strikes("SIGKILL of both trainers", lambda: faults.kill_trainers(0, 1), set())
        faults.strikes("SIGKILL of a supervisor", lambda: faults.kill_supervisor(1), {1})
        # The first pod was replaced because the operator deleted its Job; this one by the Job itself, after its pause.
        faults.strikes("eviction", lambda: training.evict(1), {1})
        until(
            lambda: len(found := faults.status().history) == 5 and found[-1].from_step is not None,
            timeout_seconds=60,
            failure=lambda: str(faults.status()),
        )
        status = faults.status()
        faults.suspends_and_resumes()
        lines = training.lines()
        memory = [line.fields for line in lines if line.event == "restored" and "ownFiles" in line.fields]
        assert memory, "no start went on from memory"
        assert any(fields["peerFiles"] for fields in memory), "no new pod got its part from the other"
        path.devcluster.kubectl("delete", RESOURCE, NAME, "--namespace", path.place.runs, "--wait=false")
        assert (status.job_set_restarts, status.restarts.in_place, status.restarts.total) == (0, 4, 4)
        assert [entry.cause for entry in status.history] == ["failed", "failed", "failed", "preempted", None]
        assert status.history[3].to_step == status.history[4].from_step, "an eviction repeats no step"
        assert status.goodput is not None
        assert status.goodput.seconds.total == pytest.approx(status.goodput.wall_seconds, abs=0.001)
        last = max(line.step for line in lines if line.event == "step")
        document["spec"]["trainer"]["steps"] = last
        reference = path.training_of(variant(document, name=REFERENCE))
        reference.apply()
        undisturbed = losses(path.finish(reference)[1], REFERENCE)
        assert compare(losses(lines, NAME), undisturbed, last).differences == ()
    finally:
        where = ("--namespace", path.place.runs)
        path.devcluster.kubectl("delete", RESOURCE, NAME, REFERENCE, *where, "--ignore-not-found", "--wait=false")
