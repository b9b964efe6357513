"""Random faults of a run whose processes start again in their pods, with snapshots in memory: real supervisors and
trainers on this machine.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from halcyon.checkpoint.memory.folder import Folder
from halcyon_api.ends import ExitCode
from tests.faults import rows
from tests.faults.table import Trials
from tests.trainer.run.test_elastic import sized
from tests.trainer.run.test_in_place import SHARED
from tests.trainer.run.test_policy_run import document_of as policy_document
from tests.trainer.run.test_replay import lora, preferences
from tests.trainer.support.process_groups import Process, TrainerProcesses, run_document, start_processes

pytestmark = [pytest.mark.slow, rows.IN_PLACE]
PAUSE_SECONDS = 1.0
"""Longest pause before a fault, so that it comes at a random moment of a step, a snapshot or a save."""


def pretraining(folder: Path) -> dict[str, Any]:
    return run_document(folder / "root")


FORMS = {
    "pretraining": pretraining,
    "audited": pretraining,
    "adapters": lora,
    "preferences": preferences,
    "rewards": policy_document,
}
"""The forms of training."""


def document(folder: Path, steps: int, form: str) -> dict[str, Any]:
    """A run of two pods with a snapshot after every second step, and a checkpoint after every ninth."""
    folder.mkdir(exist_ok=True)
    run = FORMS[form](folder)
    spec = run["spec"]
    spec["accelerator"] = {"type": "cpu", "topology": "1x1", "slices": 2}
    spec["trainer"] = spec["trainer"] | {"steps": steps, "logEverySteps": 1}
    spec["trainer"].pop("evaluation", None)
    spec["optimizer"]["schedule"] = {"constant": {}}
    spec["checkpoint"] |= {"save": {"everySteps": 9}, "memory": {"everySteps": 2}}
    spec["recovery"] = {"audit": {"everySteps": 4}} if form == "audited" else {}
    return run


def named(process: Process, event: str) -> list[dict[str, Any]]:
    return [one for one in process.events if one.get("event") == event]


LOSSES = ("kills of a supervisor", "notices to a pod")
"""The faults after which a new pod takes the place of one."""


@dataclass
class Struck:
    """A run of two pods, or of one, and the losses that it has logged."""

    group: TrainerProcesses
    chance: random.Random
    losses: dict[int, float] = field(default_factory=dict[int, float])

    def wait_for_steps(self, number: int) -> None:
        """Wait for this many steps after the newest start."""
        leader = self.group.leader
        leader.wait_for(lambda _: bool(named(leader, "restored")))
        began = named(leader, "restored")[-1]["step"]
        leader.wait_for(
            lambda _: any(one["step"] >= began + number for one in leader.events[self._mark() :] if "loss" in one)
        )

    def wait_for_checkpoint(self) -> None:
        """Wait for a checkpoint of the newest start. A run of one pod does many steps while it is written, and a second
        crash without one ends the pod.
        """
        leader = self.group.leader
        leader.wait_for(lambda _: any(one.get("event") == "checkpoint" for one in leader.events[self._mark() :]))

    def _mark(self) -> int:
        events = self.group.leader.events
        return max(number for number, one in enumerate(events) if one.get("event") == "restored")

    def collect(self) -> None:
        """Take over the losses of process 0; a repeated step must have the same one."""
        for one in named(self.group.leader, "step"):
            assert self.losses.setdefault(one["step"], one["loss"]) == one["loss"], one
        assert not named(self.group.leader, "corrupted")

    def pod(self) -> int:
        """A random pod."""
        return self.chance.randrange(len(self.group.processes))

    def trainer(self, pod: int) -> int:
        """The process id of the trainer of a pod."""
        return named(self.group.processes[pod], "start")[-1]["processId"]

    def kill_trainers(self, *pods: int) -> None:
        """SIGKILL to trainers, at the same time."""
        for pid in [self.trainer(pod) for pod in pods]:
            os.kill(pid, signal.SIGKILL)

    def kill_spare(self) -> None:
        """SIGKILL to the process that waits beside a trainer, and then to the trainer."""
        pod = self.pod()
        supervisor = self.group.processes[pod].popen.pid
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
        for pid in {int(child) for child in children} - {self.trainer(pod)}:
            os.kill(pid, signal.SIGKILL)
        self.kill_trainers(pod)

    def lose_pod(self, number: signal.Signals) -> None:
        """A pod ends by a signal to its supervisor, and a new one takes its place."""
        pod = self.pod()
        self.group.signal(number, pod)
        self.group.processes[pod].wait()
        if pod == 0:
            self.collect()
        self.group.renewed(pod).follow()

    def change_memory(self) -> None:
        """A byte of a pod's own newest snapshot changes, then both trainers end."""
        pod = self.pod()
        folder, changed = Folder(Path(self.group.environments[pod]["HALCYON_MEMORY"])), False
        while not changed:
            part = [part for part in folder.parts() if part.process == pod][-1]
            place = folder.file(pod, self.chance.choice(part.files).sha256)
            with suppress(FileNotFoundError):  # a newer snapshot has replaced it just now
                data = bytearray(place.read_bytes())
                data[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
                with place.open("r+b") as file:
                    changed = file.write(data) > 0
        self.kill_all()

    def kill_all(self) -> None:
        """SIGKILL to all trainers, at the same time."""
        self.kill_trainers(*range(len(self.group.processes)))

    @property
    def faults(self) -> dict[str, Callable[[], None]]:
        """Each kind of fault."""
        return {
            "kills of a trainer": lambda: self.kill_trainers(self.pod()),
            "kills of all trainers": self.kill_all,
            "kills of a spare process and its trainer": self.kill_spare,
            "kills of a supervisor": lambda: self.lose_pod(signal.SIGKILL),
            "notices to a pod": lambda: self.lose_pod(signal.SIGTERM),
            "changed bytes in memory": self.change_memory,
        }

    def suffer(self, number: int, trials: Trials) -> None:
        """A number of faults, each some steps after the start that the last one caused, and some steps more.

        A run that has lost its only pod is made anew, so that pod is not lost.
        """
        kinds = [kind for kind in self.faults if len(self.group.processes) > 1 or kind not in LOSSES]
        for fault in range(number):
            self.wait_for_steps(6)
            if len(self.group.processes) == 1:
                self.wait_for_checkpoint()
            time.sleep(self.chance.random() * PAUSE_SECONDS)  # the random moment of the fault
            kind = kinds[fault % len(kinds)]
            starts, leader = len(named(self.group.leader, "restored")), self.group.leader
            self.faults[kind]()
            if self.group.leader is leader:
                leader.wait_for(lambda _, starts=starts, leader=leader: len(named(leader, "restored")) > starts)
            trials.count(kind)
        self.wait_for_steps(3)


LONG = (pytest.mark.long, pytest.mark.timeout(3600))
"""Sixty faults; a start of a run that samples takes twenty seconds."""


@pytest.mark.parametrize(
    ("number", "form"),
    [
        (6, "pretraining"),
        *(pytest.param(12, form, marks=pytest.mark.variant) for form in list(FORMS)[1:]),
        *(pytest.param(60, form, marks=LONG) for form in FORMS),
    ],
)
def test_random_faults_change_no_bit(tmp_path: Path, trials: Trials, number: int, form: str) -> None:
    run = document(tmp_path / "struck", 100_000, form)
    group = start_processes(run, tmp_path / "pods", supervised=True, save_token=SHARED)
    struck = Struck(group, random.Random(f"{number} {form}"))
    try:
        struck.suffer(number, trials)
    finally:
        group.reap()
    struck.collect()
    plain = "pretraining" if form == "audited" else form
    reference = document(tmp_path / "undisturbed", max(struck.losses), plain)
    undisturbed = start_processes(reference, tmp_path / "reference").ended().leader.losses()
    assert struck.losses == undisturbed


@pytest.mark.parametrize(
    ("number", "sizes"),
    [
        pytest.param(4, (2, 1, 2), marks=pytest.mark.variant),
        pytest.param(12, (2, 1, 2, 1, 2), marks=LONG),
    ],
)
def test_random_faults_of_an_elastic_run_change_no_bit(
    tmp_path: Path, trials: Trials, number: int, sizes: tuple[int, ...]
) -> None:
    """Slices leave and come back between the faults, and the undisturbed run has the same number at each step."""
    chance, elastic = random.Random(f"{number} {sizes}"), {"elastic": {"minSlices": 1}}
    run = document(tmp_path / "struck", 100_000, "pretraining")
    reference = document(tmp_path / "undisturbed", 100_000, "pretraining")
    run["spec"]["recovery"] = reference["spec"]["recovery"] = elastic
    step = 0
    for attempt, slices in enumerate(sizes, start=1):
        began = step
        group = start_processes(
            sized(run, slices),
            tmp_path / "pods",
            attempt=attempt,
            resume_step=began,
            supervised=True,
            save_token=SHARED,
        )
        struck = Struck(group, chance)
        try:
            struck.suffer(number, trials)
            for pod in range(slices):  # as the deletion of the JobSet does
                group.signal(signal.SIGTERM, pod)
            assert group.wait() == [ExitCode.PREEMPTED] * slices
        finally:
            group.reap()
        struck.collect()
        step = group.leader.report()["step"]
        reference["spec"]["trainer"]["steps"] = step
        calm = start_processes(sized(reference, slices), tmp_path / "reference", attempt=attempt, resume_step=began)
        kept = {number: loss for number, loss in struck.losses.items() if number <= step}  # not those after the last
        assert kept == calm.ended().leader.losses(), f"on {slices} slices from step {began}"
