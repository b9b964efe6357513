"""A root that is full, over its quota or read-only only costs checkpoints, and only until it is fixed.

No decision depends on a clock.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halcyon.checkpoint import list_checkpoints
from halcyon.checkpoint.verify import find_damage
from halcyon.host.storage.store import Store
from halcyon_api.ends import ExitCode
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_devcluster.waiting import until
from tests.faults import rows
from tests.faults.an_hour_back import HOUR
from tests.faults.child import FaultChild
from tests.faults.table import Trials
from tests.trainer.checkpoint.disks import small_disk, small_disk_free
from tests.trainer.checkpoint.helpers import Root, open_root, restore_right
from tests.trainer.support.process_groups import TrainerProcesses, run_document, start_processes

__all__ = ["small_disk"]
pytestmark = [pytest.mark.slow, rows.ROOT, pytest.mark.timeout(1200)]

MANY = 1_000_000
PATIENCE = 300
"""Seconds: much longer than any event takes, even on a busy machine."""
_REMOUNT, _READ_ONLY = 32, 1


def running(root: Path, folder: Path, **options: Any) -> TrainerProcesses:
    """A run of one process that trains until it gets a notice, with a save every 20 steps."""
    document = run_document(root, slices=1, steps=MANY)
    document["spec"]["checkpoint"]["save"] = {"everySteps": 20}
    return start_processes(document, folder, **options)


def stop(group: TrainerProcesses) -> dict[int, float]:
    """Send a notice, and return the losses of all steps."""
    group.signal(signal.SIGTERM, 0)
    assert group.wait() == [ExitCode.PREEMPTED]
    return group.leader.losses()


def after(events: list[dict[str, Any]], kind: str, text: str = "") -> Callable[[list[dict[str, Any]]], bool]:
    """A condition: an event of a kind that contains `text` has come after `events`."""
    known = len(events)
    return lambda all_events: any(event.get("event") == kind and text in str(event) for event in all_events[known:])


def calm_losses(tmp_path: Path, losses: dict[int, float]) -> dict[int, float]:
    """The losses of an undisturbed run at these steps."""
    group = running(tmp_path / "calm-root", tmp_path / "calm")
    group.leader.wait_for(
        lambda events: any(event.get("event") == "step" and event["step"] >= max(losses) for event in events),
        timeout_seconds=PATIENCE,
    )
    calm = stop(group)
    return {step: calm[step] for step in losses}


def remount(folder: Path, flags: int) -> None:
    """Change the flags of a mount, as the kernel does when a disk fails."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.mount(b"none", os.fsencode(folder), b"tmpfs", _REMOUNT | flags, None):
        raise OSError(ctypes.get_errno(), "remount")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount")
def test_a_training_continues_while_its_root_is_full_or_read_only(
    small_disk: Path, tmp_path: Path, trials: Trials
) -> None:
    remount_size(small_disk, "8m")
    root = small_disk / "root"
    spec = CheckpointSpec(root=f"file://{root}")
    group = running_on_disk(root, tmp_path)
    leader, filler = group.leader, small_disk / "filler"

    def check_the_old_checkpoints_are_intact() -> None:
        committed = list_checkpoints(spec).committed
        assert len(committed) == 2
        assert [find_damage(Store(spec), entry) for entry in committed] == [(), ()]

    def fill() -> None:
        shutil.rmtree(root / "compilation", ignore_errors=True)  # it would make room for a save
        with filler.open("wb") as file:
            file.write(b"x" * small_disk_free(small_disk))

    try:
        leader.wait_for(
            lambda events: sum(event.get("event") == "checkpoint" for event in events) > 2, timeout_seconds=PATIENCE
        )
        for hurt, text, heal in (
            (fill, "has no space left; free some or enlarge it", filler.unlink),
            (lambda: remount(small_disk, _READ_ONLY), "Read-only file system", lambda: remount(small_disk, 0)),
        ):
            _hurt(hurt)
            leader.wait_for(after(leader.events, "checkpointFailed", text), timeout_seconds=PATIENCE)
            leader.wait_for(after(leader.events, "step"), timeout_seconds=PATIENCE)
            check_the_old_checkpoints_are_intact()
            heal()
            leader.wait_for(after(leader.events, "checkpoint"), timeout_seconds=PATIENCE)
        losses = stop(group)
    finally:
        group.reap()
    assert sorted(losses) == list(range(1, max(losses) + 1))
    assert losses == calm_losses(tmp_path, losses)
    check_the_old_checkpoints_are_intact()
    assert json.loads((root / "HEAD").read_bytes())["committed"][0]["step"] == max(losses)
    trials.count("disks filled in mid-run")
    trials.count("roots remounted read-only in mid-run")


def _hurt(hurt: Callable[[], None]) -> None:
    """Retry `hurt` until it succeeds: a save may write at the same time, and then the disk is fuller, or busier, than a
    moment before.
    """
    refusals: list[OSError] = []

    def hurts() -> bool:
        try:
            hurt()
        except OSError as refusal:
            refusals.append(refusal)
            return False
        return True

    until(hurts, timeout_seconds=60, interval_seconds=0.001, failure=lambda: f"always refused: {refusals[-1]}")


def remount_size(folder: Path, size: str) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    assert library.mount(b"none", os.fsencode(folder), b"tmpfs", _REMOUNT, f"size={size}".encode()) == 0


def running_on_disk(root: Path, tmp_path: Path) -> TrainerProcesses:
    """A run whose corpus and caches are on another disk, because only checkpoints must run short of space."""
    document = run_document(tmp_path / "root", slices=1, steps=MANY)
    document["spec"]["checkpoint"] = {"root": f"file://{root}", "save": {"everySteps": 20}}
    document["spec"]["data"]["cache"] = {"root": f"file://{tmp_path}/cache"}
    return start_processes(document, tmp_path / "run")


def test_an_exceeded_quota_costs_checkpoints_and_not_the_training(file_root: Root, trials: Trials) -> None:
    """The system reports the exceeded quota at fsync, as network file systems do."""
    with FaultChild("over_quota", file_root, devices=4) as child:
        assert child.end() == ExitCode.DONE, child.noise()
    failures = [event["text"] for event in child.events if event["event"] == "failed"]
    assert [text.partition(" was not saved")[0] for text in failures] == [
        "the checkpoint at step 3",
        "the checkpoint at step 4",
    ]
    assert all("has no space left; free some or enlarge it" in text for text in failures)
    listing = list_checkpoints(file_root.spec)
    assert [entry.step for entry in listing.committed] == [2, 1]
    assert [find_damage(Store(file_root.spec), entry) for entry in listing.committed] == [(), ()]
    with open_root(file_root) as checkpointer:
        restored = restore_right(checkpointer)
    assert restored.step == 2
    trials.count("saves over quota", 2)


def test_no_decision_depends_on_a_clock_that_is_set_back_an_hour(tmp_path: Path, trials: Trials) -> None:
    """No clock decides which checkpoint is newest, which is deleted, or who owns the root.

    The files' times are in the future, too.
    """
    root, attempts = tmp_path / "root", 3
    losses: dict[int, float] = {}
    newest = 0

    def checkpoints(events: list[dict[str, Any]]) -> int:
        return sum(event.get("event") == "checkpoint" for event in events)

    def done(events: list[dict[str, Any]]) -> int:
        return max((event["step"] for event in events if event.get("event") == "step"), default=0)

    for attempt in range(1, attempts + 1):
        past = attempt % 2 == 0
        module = "tests.faults.an_hour_back" if past else "halcyon.commands.main"
        group = running(root, tmp_path / "run", attempt=attempt, module=module, own_interpreter=past)
        try:
            group.leader.wait_for(
                lambda events, last=newest: checkpoints(events) >= 3 or done(events) > last + 200,
                timeout_seconds=PATIENCE,
            )
            assert checkpoints(group.leader.events) >= 3, "ten saves were due, and each waits for the previous one"
            group.signal(signal.SIGKILL, 0)
            assert group.wait() == [-signal.SIGKILL]
        finally:
            group.reap()
        (restored,) = [event["step"] for event in group.leader.events if event.get("event") == "restored"]
        assert newest <= restored <= newest + 20
        found = group.leader.losses()
        assert all(losses.get(step, loss) == loss for step, loss in found.items())
        losses |= found
        head = json.loads((root / "HEAD").read_bytes())
        steps = [entry["step"] for entry in head["committed"]]
        newest = max(event["step"] for event in group.leader.events if event.get("event") == "checkpoint")
        assert steps == sorted(steps, reverse=True)
        assert newest <= steps[0] <= newest + 20
        newest = steps[0]
        assert head["epoch"] == {"attempt": attempt, "restart": 0}
        for path in root.rglob("*"):
            os.utime(path, (path.stat().st_mtime + HOUR,) * 2)
    times = {entry["epoch"]["attempt"]: entry["time"] for entry in head["committed"]}
    assert set(times) == {attempts}
    assert losses == calm_losses(tmp_path, losses)
    trials.count("clocks moved by an hour between attempts", attempts - 1)
