"""Random faults of a run and of the samplers of its pool: real processes on this machine."""

from __future__ import annotations

import copy
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from halcyon_api.ends import ExitCode
from tests.faults import rows
from tests.faults.table import Trials
from tests.ports import free_port
from tests.trainer.run.test_policy_run import MODULE, document_of, kept_in, numbers, rollouts
from tests.trainer.support.process_groups import TrainerProcesses, start_processes

pytestmark = [pytest.mark.slow, rows.POOL]
DELAY = 3
SAMPLERS = 2
RUNS_SECONDS = 0.02
"""A sampler that is slowed down runs for this time, then stands still nine times as long."""
FAULTS = (
    "losses of all samplers",
    "kills of a sampler",
    "kills of the run",
    "kills of the run and a sampler",
    "samplers that stand still",
    "samplers ten times as slow",
    "kills of the run between two writes",
    "kills of a sampler between two writes",
)


def document(folder: Path, steps: int, policy: dict[str, Any]) -> dict[str, Any]:
    run = document_of(folder, {"delaySteps": DELAY, **policy})
    run["spec"]["trainer"] |= {"steps": steps, "evaluation": {"everySteps": 0}}
    run["spec"]["recovery"] = {}
    return run


class Pool:
    """A run and its samplers, and the numbers that the run has logged."""

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        self.folder, self.document, self.restart = folder, run, 0
        self.found: dict[int, tuple[float, ...]] = {}
        self.run = self.start_run()
        self.samplers = [self.sampler(index) for index in range(SAMPLERS)]

    def sampler(self, index: int) -> TrainerProcesses:
        found = copy.deepcopy(self.document)
        found["metadata"]["name"] = f"sampler-{index}"
        found["spec"] |= {"task": "sample", "telemetry": {"port": free_port()}}
        return start_processes(found, self.folder / f"log-{index}", restart=self.restart, module=MODULE)

    def wait_for_steps(self, number: int) -> None:
        """Wait for this many steps since the newest start of the run, or its end."""

        def met(events: list[dict[str, Any]]) -> bool:
            names = [one["event"] for one in events]
            return names.count("step") >= number or "done" in names

        self.run.leader.wait_for(met)

    def collect(self) -> None:
        """Take over the numbers of the run; a repeated step must have the same."""
        for step, found in numbers(self.run.leader.events).items():
            assert self.found.setdefault(step, found) == found, step

    def kill_samplers(self, *indices: int) -> None:
        for index in indices:
            self.samplers[index].reap()

    def start_samplers(self, *indices: int) -> None:
        for index in indices:
            self.samplers[index] = self.sampler(index)

    def start_run(self) -> TrainerProcesses:
        return start_processes(self.document, self.folder / "log", restart=self.restart, module=MODULE)

    def dying(self, start: Callable[[], TrainerProcesses]) -> TrainerProcesses:
        """A process that dies before one of its first writes; a run with nothing to write ends."""
        os.environ["DIE_AT_WRITE"] = str(1 + self.restart % 4)
        try:
            group = start()
        finally:
            del os.environ["DIE_AT_WRITE"]
        assert group.wait() in ([-signal.SIGKILL], [ExitCode.DONE]), group.leader.output_tail()
        return group

    def slow_down(self, group: TrainerProcesses) -> None:
        """It stands still nine tenths of the time, until the run has done two steps."""
        done = threading.Event()

        def stutter() -> None:
            while not done.wait(RUNS_SECONDS):
                group.signal(signal.SIGSTOP, 0)
                done.wait(9 * RUNS_SECONDS)
                group.signal(signal.SIGCONT, 0)

        thread = threading.Thread(target=stutter)
        thread.start()
        self.wait_for_steps(2)
        done.set()
        thread.join()

    def strike(self, fault: str, index: int) -> None:
        self.restart += 1
        match fault:
            case "kills of the run" | "kills of the run and a sampler" | "kills of the run between two writes":
                self.run.reap()
                self.collect()
                if "writes" in fault:
                    self.run = self.dying(self.start_run)
                    self.collect()
                self.run = self.start_run()
            case "losses of all samplers":
                self.kill_samplers(*range(SAMPLERS))
                self.start_samplers(*range(SAMPLERS))
            case "samplers that stand still":
                self.samplers[index].signal(signal.SIGSTOP, 0)
                self.wait_for_steps(1)
                self.samplers[index].signal(signal.SIGCONT, 0)
            case "samplers ten times as slow":
                self.slow_down(self.samplers[index])
        if "a sampler" in fault:
            self.kill_samplers(index)
            if "writes" in fault:
                self.dying(lambda: self.sampler(index))
            self.start_samplers(index)

    def end(self) -> None:
        assert self.run.wait() == [ExitCode.DONE], self.run.leader.output_tail()
        self.collect()
        for sampler in self.samplers:
            assert sampler.wait() == [ExitCode.DONE], sampler.leader.output_tail()


@contextmanager
def started(folder: Path, run: dict[str, Any]) -> Iterator[Pool]:
    pool = Pool(folder, run)
    try:
        yield pool
    finally:
        for group in (pool.run, *pool.samplers):
            group.reap()


@pytest.mark.parametrize(
    ("steps", "seed"), [(9, None), *(pytest.param(40, seed, marks=pytest.mark.variant) for seed in (1, 2, 3))]
)
def test_random_faults_of_a_pool_change_no_bit(
    steps: int, seed: int | None, trials: Trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEASE_SECONDS", "3")
    chance = random.Random(seed)
    faults = FAULTS[:3] if seed is None else [chance.choice(FAULTS) for _ in range(25)]
    calm = start_processes(document(tmp_path / "calm", steps, {}), tmp_path / "calm-log", module=MODULE)
    assert calm.wait() == [ExitCode.DONE], calm.leader.output_tail()
    with started(tmp_path, document(tmp_path, steps, {"sampledBy": "samplers"})) as pool:
        for fault in faults:
            pool.wait_for_steps(1)
            pool.strike(fault, chance.randrange(SAMPLERS))
            trials.count(fault)
        pool.end()
    assert pool.found == numbers(calm.leader.events)
    assert rollouts(tmp_path, steps) == rollouts(tmp_path / "calm", steps), "every prompt is used once"
    assert {name.batch for name in kept_in(tmp_path)} == set(range(steps + DELAY))
