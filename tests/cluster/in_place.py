"""Faults of a run whose processes start again in their pods, and what each of them cost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halcyon.checkpoint.memory.folder import Folder
from halcyon_api import names
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_demo.comparison import compare, losses
from halcyon_demo.documents import variant
from halcyon_demo.records import LogLine
from halcyon_demo.training import RESOURCE, Training
from halcyon_devcluster.containerd import Task
from halcyon_devcluster.waiting import until
from tests.cluster.life import UNENDING, WITHOUT_END
from tests.cluster.whole_path import SAVE_EVERY, WholePath

SOME_STEPS = 2 * SAVE_EVERY
"""Steps in which each start makes a checkpoint."""


def document(path: WholePath, name: str) -> dict[str, Any]:
    """A run of two pods that trains until it is stopped, with a snapshot in memory after every fourth step."""
    found = variant(path.document, name=name)
    found["spec"]["optimizer"] = {"learningRate": 0.001, **UNENDING}
    found["spec"]["trainer"] = {"steps": WITHOUT_END, "batchSize": 8, "sequenceLength": 32}
    found["spec"]["checkpoint"]["memory"] = {"everySteps": 4}
    found["spec"]["accelerator"]["hostResources"] = {"memory": "4Gi"}  # with less there is no spare process
    return found


def children(task: Task) -> list[int]:
    """The trainer of a pod, and its spare process if there is one, as process ids of this machine.

    Linux lists them by age; the numbers may have begun again between them.
    """
    return list(map(int, Path(f"/proc/{task.pid}/task/{task.pid}/children").read_text().split()))


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    for pid in pids:
        os.kill(pid, number)


@dataclass
class Faults:
    """Faults of a run, and what they cost."""

    path: WholePath
    training: Training
    find: Callable[[str], Task] | None = None
    """Finds the main process of a pod, if not all pods are on the first node."""
    known: set[str] = field(default_factory=set[str])

    def pods(self) -> dict[int, str]:
        """The UIDs of the pods that are not over, by slice."""
        selector = f"{names.LABEL_RUN}={self.training.name},!{names.LABEL_ROLE}"
        found = self.path.devcluster.kubectl.json(
            "get", "pods", "--namespace", self.path.place.runs, f"--selector={selector}"
        )
        return {
            int(pod["metadata"]["labels"][names.JOBSET_JOB_INDEX]): pod["metadata"]["uid"]
            for pod in found["items"]
            if pod["status"]["phase"] in ("Pending", "Running") and "deletionTimestamp" not in pod["metadata"]
        }

    @property
    def status(self) -> TrainingRunStatus:
        """The status of the run."""
        run = self.training.run
        assert run is not None
        return run.status

    def restored(self) -> list[LogLine]:
        """The lines of all starts that have restored the state."""
        return [line for line in self.training.lines() if line.event == "restored"]

    def supervisor(self, number: int) -> Task:
        """The first process of the pod of a slice."""
        pod = self.training.running_pod(number).name
        faults = self.path.devcluster.faults
        return faults.main_process(self.path.place.runs, pod) if self.find is None else self.find(pod)

    def trainers(self, *numbers: int) -> list[int]:
        """The trainers of slices, as process ids of this machine."""
        return [children(self.supervisor(number))[0] for number in numbers]

    def kill_trainers(self, *numbers: int) -> None:
        """SIGKILL the trainers of these slices at the same time, and not their supervisors."""
        send(signal.SIGKILL, self.trainers(*numbers))

    def kill_supervisors(self, *numbers: int) -> None:
        """SIGKILL the first processes of these slices' pods at the same time."""
        send(signal.SIGKILL, [self.supervisor(number).pid for number in numbers])

    def kill_spare(self, number: int) -> None:
        """SIGKILL the process that waits beside a trainer: nothing else ends or starts."""
        supervisor = self.supervisor(number)
        until(
            lambda: len(children(supervisor)) == 2,
            timeout_seconds=60,
            failure=lambda: f"no spare process: {children(supervisor)}",
        )
        trainer, spare = children(supervisor)
        send(signal.SIGKILL, [spare])
        self.undisturbed("SIGKILL of a spare process")
        assert children(supervisor)[0] == trainer

    def change_memory(self, number: int) -> None:
        """A byte of each file changes that a pod has of its own newest snapshots; then both trainers end."""
        trainers = self.trainers(0, 1)
        send(signal.SIGSTOP, trainers)  # otherwise they would delete these snapshots at any moment
        folder = Folder(Path(f"/proc/{self.supervisor(number).pid}/root{names.MEMORY_DIRECTORY}"))
        files = {file.sha256 for part in folder.parts() if part.process == number for file in part.files}
        assert files, "the pod has no snapshot"
        for place in (folder.file(number, sha256) for sha256 in files):
            data = bytearray(place.read_bytes())
            data[len(data) // 2] ^= 1
            place.write_bytes(data)
        send(signal.SIGKILL, trainers)

    def undisturbed(self, title: str, steps: int = SOME_STEPS) -> None:
        """The run goes on, without a new start or a new pod."""
        pods, starts = self.pods(), len(self.restored())
        self.training.wait_for_step(self.training.step() + steps)
        assert (self.pods(), len(self.restored())) == (pods, starts), title
        print(f"{title}: nothing starts again")

    def strikes(self, title: str, fault: Callable[[], object], lost: set[int]) -> LogLine:
        """The run goes on after a fault, and only these slices have new pods. Returns the line of the new start."""
        self.training.wait_for_step(self.training.step() + SOME_STEPS)  # a checkpoint of this start
        pods, starts, began = self.pods(), len(self.restored()), time.monotonic()
        fault()
        until(lambda: len(self.restored()) > starts, timeout_seconds=180, failure=lambda: f"{title}: no start in time")
        seconds, found = time.monotonic() - began, self.restored()[-1]
        self.training.wait_for_step(found.step + 1)
        last = max(line.step for line in self.training.lines() if line.event == "step" and line.time < found.time)
        own, peer = found.fields.get("ownFiles"), found.fields.get("peerFiles")
        source = "the store" if own is None else f"{own} own files, {peer} of the other pod"
        print(
            f"{title}: step {found.step} after {seconds:.1f} s, {max(0, last - found.step)} steps repeated, from {source}"
            f" (load {os.getloadavg()[0]:.0f})"
        )
        now = self.pods()
        assert {number for number in pods if pods[number] != now.get(number)} == lost, title
        return found

    def history(self, number: int) -> TrainingRunStatus:
        """The status, once its history has this number of entries and the last one trains."""
        until(
            lambda: len(found := self.status.history) >= number and found[-1].from_step is not None,
            timeout_seconds=60,
            failure=lambda: str(self.status),
        )
        return self.status

    def compare(self) -> None:
        """End the run: its losses are those of an undisturbed one."""
        path, name = self.path, self.training.name
        delete = ("delete", RESOURCE, "--namespace", path.place.runs, "--wait=false")
        lines = self.training.lines()
        path.devcluster.kubectl(*delete, name)
        last = max(line.step for line in lines if line.event == "step")
        calm = document(path, f"{name}-reference")
        calm["spec"]["trainer"]["steps"] = last
        reference = path.training_of(calm)
        try:
            reference.apply()
            expected = losses(path.finish(reference)[1], reference.name)
        finally:
            path.devcluster.kubectl(*delete, reference.name, "--ignore-not-found")
        assert compare(losses(lines, name), expected, last).differences == ()
