"""The own work of processes: the rule that names a slow one, and a process that is slowed down for real."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from halcyon.parallel.stragglers import StragglerRule
from halcyon_api.spec.recovery import StragglerSpec
from halcyon_devcluster.waiting import holds_within
from tests.suite.limits import limit
from tests.trainer.support.process_groups import run_document, start_processes

RUNS_SECONDS = 0.025
"""Time for which a slowed process runs, between pauses of three times as long."""


def named(rows: list[list[float]], every: int = 1) -> int | None:
    """The process that the rule names after these seconds of each process, measured every few steps."""
    rule, found = StragglerRule(StragglerSpec(factor=1.5, for_steps=20), len(rows[0])), None
    for number, row in enumerate(rows):
        found = rule.measured(every * number, np.array(row, float))
    return None if found is None else found.process


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 1, 1, 2]] * 40, 3), ([[1, 1, 1, 1.4]] * 40, None), ([[1, 1, 3, 2]] * 40, 2), ([[1, 1, 3, 3]] * 40, 2),
        ([[1, 1, 1, 1]] * 20 + [[9, 9, 9, 9]] * 40, None),  # all slow together
        ([[1, 1, 500, 1]] + [[1, 1, 1, 1]] * 15, None), ([[1, 1, 500, 1]] + [[1, 1, 1, 1]] * 7, None),  # one step
        ([[1, 2]] * 40, 1), ([[1, 1.4]] * 40, None), ([[5]] * 40, None),  # two processes, and one
        ([[1, 1, 1, 2]] * 20, None), ([[1, 1, 1, 2]] * 21, 3),  # not for 20 steps yet
        ([[1, 1, 1, 2]] * 40 + [[1, 1, 1, 1]] * 8, None),  # as fast as the others again
        ([[1, 1, 1, 1], [1, 1, 1, 4]] * 20, 3),  # stands still half of the time
    ],
)  # fmt: skip
def test_the_slow_process(rows: list[list[float]], expected: int | None) -> None:
    assert named(rows) == expected


def test_measurements_that_are_far_apart() -> None:
    assert named([[1, 1, 2]] * 15, every=100) is None, "too few to know"
    assert named([[1, 1, 2]] * 16, every=100) == 2


@contextlib.contextmanager
def slowed(pid: int) -> Iterator[None]:
    """Let a process run for a quarter of the time: by a quota of its processor, or where that is not allowed, by
    stopping it.
    """
    quota, over = Path(f"/sys/fs/cgroup/cpu/halcyon-{pid}"), threading.Event()
    if os.access(quota.parent / "cpu.cfs_quota_us", os.W_OK):
        quota.mkdir()
        try:
            (quota / "cpu.cfs_quota_us").write_text("25000")
            (quota / "cgroup.procs").write_text(str(pid))
            yield
        finally:
            (quota.parent / "cgroup.procs").write_text(str(pid))
            quota.rmdir()
        return

    def stop_and_go() -> None:
        while not over.wait(RUNS_SECONDS):
            os.kill(pid, signal.SIGSTOP)
            over.wait(3 * RUNS_SECONDS)
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
def test_a_process_that_is_slowed_down(tmp_path: Path) -> None:
    run = run_document(tmp_path / "root", steps=10**6)
    run["spec"]["recovery"] = {"straggler": {"factor": 1.5, "forSteps": 20}}
    run["spec"]["checkpoint"]["save"] = {"everySteps": 0}
    group = start_processes(run, tmp_path / "run", module="tests.trainer.support.own_work_child", own_interpreter=True)

    def found() -> Any:
        return httpx.get(f"http://127.0.0.1:{group.leader.port}/status", trust_env=False).json().get("slow")

    try:
        group.leader.wait_for(lambda events: any(event.get("event") == "step" for event in events))
        with slowed(group.processes[1].popen.pid):
            group.leader.wait_for(lambda events: any(event.get("event") == "slow" for event in events))
            slow = found()
            assert (slow["process"], slow["ratio"] > 1.5) == (1, True)
        assert holds_within(lambda: found() is None, limit(60)), "it is as fast as the other one again"
    finally:
        group.reap()
