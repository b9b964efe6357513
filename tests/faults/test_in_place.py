"""Random faults of a run whose processes start again in their pods, with snapshots in memory: real supervisors and
trainers on this machine.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from halcyon.checkpoint.memory.folder import Folder
from tests.faults import rows
from tests.faults.table import Trials
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


@dataclass
class Struck:
    """A run of two pods, and the losses that it has logged."""

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
        return self.chance.randrange(2)

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
        folder = Folder(Path(self.group.environments[pod]["HALCYON_MEMORY"]))
        for part in [part for part in folder.parts() if part.process == pod][-1:]:
            place = folder.file(pod, self.chance.choice(part.files).sha256)
            data = bytearray(place.read_bytes())
            data[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
            place.write_bytes(data)
        self.kill_trainers(0, 1)

    @property
    def faults(self) -> dict[str, Callable[[], None]]:
        """Each kind of fault."""
        return {
            "kills of a trainer": lambda: self.kill_trainers(self.pod()),
            "kills of both trainers": lambda: self.kill_trainers(0, 1),
            "kills of a spare process and its trainer": self.kill_spare,
            "kills of a supervisor": lambda: self.lose_pod(signal.SIGKILL),
            "notices to a pod": lambda: self.lose_pod(signal.SIGTERM),
            "changed bytes in memory": self.change_memory,
        }


@pytest.mark.parametrize(
    ("number", "form"),
    [
        (6, "pretraining"),
        *(pytest.param(12, form, marks=pytest.mark.variant) for form in list(FORMS)[1:]),
        *(pytest.param(60, form, marks=pytest.mark.long) for form in FORMS),
    ],
)
def test_random_faults_change_no_bit(tmp_path: Path, trials: Trials, number: int, form: str) -> None:
    chance = random.Random(f"{number} {form}")
    run = document(tmp_path / "struck", 100_000, form)
    group = start_processes(run, tmp_path / "pods", supervised=True, save_token=SHARED)
    struck = Struck(group, chance)
    try:
        kinds = list(struck.faults)
        for fault in range(number):
            struck.wait_for_steps(6)
            time.sleep(chance.random() * PAUSE_SECONDS)  # the random moment of the fault
            kind = kinds[fault % len(kinds)]
            starts, leader = len(named(group.leader, "restored")), group.leader
            struck.faults[kind]()
            if group.leader is leader:
                leader.wait_for(lambda _, starts=starts, leader=leader: len(named(leader, "restored")) > starts)
            trials.count(kind)
        struck.wait_for_steps(3)
    finally:
        group.reap()
    struck.collect()
    plain = "pretraining" if form == "audited" else form
    reference = document(tmp_path / "undisturbed", max(struck.losses), plain)
    undisturbed = start_processes(reference, tmp_path / "reference").ended().leader.losses()
    assert struck.losses == undisturbed
