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
import jax
import numpy as np
import pytest

from halcyon.parallel.stragglers import StragglerRule, slow_at_start
from halcyon.run import trust
from halcyon_api.ends import ExitCode
from halcyon_api.spec.recovery import StragglerSpec
from halcyon_api.status.progress import SlowProcess
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


NONE, ONE = [np.inf, np.inf], [1.0, np.inf]


@pytest.mark.parametrize(
    ("seconds", "promised", "expected"),
    [
        ([[1, 1], [1, 1], [1, 2]], NONE, (2, 2.0)), ([[1, 1], [1, 1.4]], NONE, None), ([[1, 1], [1, 2]], NONE, (1, 2.0)),
        ([[1, 3], [2, 1], [1, 1]], NONE, (0, 3.0)), ([[7, 7]], NONE, None), ([[7, 7], [7, 7]], NONE, None),
        ([[2, 1]], ONE, None), ([[2.6, 1]], ONE, (0, 1.56)), ([[1, 99]], ONE, None),  # 40 % of what the row promises
        ([[2.6, 1], [2.7, 1]], ONE, (1, 1.62)), ([[1.2, 1], [5, 1], [1.2, 1]], ONE, (1, 5 / 1.2)),
    ],
)  # fmt: skip
def test_the_process_that_is_slow_at_the_start(seconds: list[Any], promised: list[float], expected: Any) -> None:
    found = slow_at_start(np.array(seconds, float), promised, 1.5)
    assert found == (None if expected is None else (expected[0], pytest.approx(expected[1])))


def test_a_process_slow_at_the_start_is_slow_until_there_are_enough_measurements() -> None:
    at_start = SlowProcess(process=1, step=1, ratio=3.0)
    rule = StragglerRule(StragglerSpec(for_steps=1), 3, at_start)
    assert [rule.measured(step, np.ones(3)) for step in range(16)] == [at_start] * 15 + [None]


def test_the_speeds_of_devices_are_measured() -> None:
    seconds, amounts = trust.device_seconds(jax.local_devices())
    assert seconds.shape == amounts.shape == (2,)
    assert (seconds > 0).all()


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
            with contextlib.suppress(ProcessLookupError):
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


@pytest.mark.slow
def test_a_process_that_is_slow_is_named_before_the_first_step(tmp_path: Path) -> None:
    run = run_document(tmp_path / "root", steps=10**6)
    run["spec"]["recovery"] = {"straggler": {}}
    group = start_processes(run, tmp_path / "run")

    def has(name: str, count: int = 1) -> None:
        group.leader.wait_for(lambda events: sum(event.get("event") == name for event in events) >= count)

    try:
        has("joined")
        with slowed(group.processes[1].popen.pid):
            has("slow")
            names = [event["event"] for event in group.leader.events]
            (slow,) = (event for event in group.leader.events if event["event"] == "slow")
            assert (slow["slowProcess"], slow["ratio"] > 1.5, "devices" in names) == (1, True, True)
            assert "compiled" not in names
    finally:
        group.reap()


@pytest.mark.slow
def test_a_process_with_other_bits_ends_the_run_before_its_first_step(tmp_path: Path) -> None:
    run = run_document(tmp_path / "root", slices=3, batchSize=9)
    run["spec"]["recovery"] = {"straggler": {}}
    group = start_processes(run, tmp_path / "run", module="tests.trainer.support.trust_child", own_interpreter=True)
    assert group.ended().wait() == [ExitCode.CORRUPTED] * 3
    reports = [process.report() for process in group.processes]
    assert [report.get("peerLost") for report in reports] == [1, None, 1]
    assert reports[0]["message"] == (
        "step 1: products of the same matrices differ: 1 device of process 1 has wrong numbers"
    )
    assert group.leader.losses() == {}
