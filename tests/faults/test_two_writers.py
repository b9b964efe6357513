"""A process that lost the root can never change it, wherever it was stopped and whenever it continues."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path

import pytest

from halcyon.checkpoint import list_checkpoints
from halcyon.checkpoint.verify import find_damage
from halcyon.host.storage.store import Store
from halcyon_api.ends import ExitCode
from halcyon_devcluster.waiting import until
from tests.faults import rows
from tests.faults.table import Trials
from tests.suite import promises
from tests.trainer.checkpoint.helpers import Root, epoch, open_root, restore_right, save_step, snapshot_of
from tests.trainer.checkpoint.processes import Child

pytestmark = [pytest.mark.slow, rows.TWO_WRITERS]


def wait_until_stopped(child: Child) -> None:
    status = Path(f"/proc/{child.popen.pid}/status")
    until(
        lambda: "State:\tT (stopped)" in status.read_text(),
        timeout_seconds=60,
        interval_seconds=0.01,
        failure=lambda: "it never stopped",
    )
    assert child.popen.poll() is None, "it ended instead"


# 27 files and documents are written by the save; the last four are MANIFEST, COMMIT, the copy of HEAD, and HEAD.
PLACES = [("file", 25), ("file", 11), ("s3", 23), ("s3", 24), ("s3", 25)]
FURTHER_PLACES = [("file", 0), ("file", 23), ("file", 24), ("file", 26), ("s3", 0), ("s3", 11), ("s3", 26)]


@pytest.mark.parametrize(
    ("kind", "writes"), [*PLACES, *(pytest.param(*place, marks=pytest.mark.variant) for place in FURTHER_PLACES)]
)
@promises.FENCED
def test_a_writer_continued_in_mid_save_after_it_was_replaced_changes_nothing(
    request: pytest.FixtureRequest, trials: Trials, kind: str, writes: int
) -> None:
    root: Root = request.getfixturevalue(f"{kind}_root")
    with Child("zombie", root, epoch=[1, 0], writes=writes) as old:
        assert old.hear("saving") == {"event": "saving"}
        wait_until_stopped(old)
        assert [entry["step"] for entry in root.head["committed"]] == [1]
        there = {path.name for path in root.folder.glob("steps/*02.*/*") if path.is_file()}
        assert there == ({"MANIFEST.json"} if writes > 23 else set()) | ({"COMMIT"} if writes > 24 else set())
        with open_root(root, epoch=epoch(1, 1)) as new:
            restored = restore_right(new)
            assert (restored.step, restored.skipped) == (1, ())
            save_step(new, 3)
            new.finish()
            assert new.last_error is None
            head = root.head
            old.popen.send_signal(signal.SIGCONT)
            assert old.end() == ExitCode.FENCED, old.noise()
            assert (
                "was taken by the newer start 1.1 of the run, so this process of start 1 may not"
                in old.events[-1]["text"]
            )
            assert root.head == head
            save_step(new, 4)
            new.finish()
    assert [(entry.step, entry.epoch) for entry in list_checkpoints(root.spec).committed] == [
        (4, epoch(1, 1)),
        (3, epoch(1, 1)),
    ]
    for entry in list_checkpoints(root.spec).committed:
        assert find_damage(Store(root.spec), entry) == ()
    with open_root(root) as later:
        restored = restore_right(later)
        assert restored.step == 4
        save_step(later, 5)
        later.finish()
    assert list_checkpoints(root.spec).unfinished == (), "the files of the stopped writer are deleted"
    trials.count("writers replaced while they were stopped")


@pytest.mark.parametrize("pause_seconds", [3, pytest.param(30, marks=pytest.mark.variant)])
def test_a_writer_stopped_while_a_newer_one_saves_and_deletes_changes_nothing(
    file_root: Root, s3_root: Root, trials: Trials, pause_seconds: int
) -> None:
    """One writer on a folder and one on a bucket, at the same time."""
    pauses = ((file_root, 11), (s3_root, 25))
    with contextlib.ExitStack() as stack:
        olds, news = [], []
        for root, writes in pauses:
            old = stack.enter_context(Child("zombie", root, epoch=[1, 0], writes=writes))
            assert old.hear("saving") == {"event": "saving"}
            wait_until_stopped(old)
            olds.append(old)
        deadline = time.monotonic() + pause_seconds
        for root, _ in pauses:
            new = stack.enter_context(open_root(root, epoch=epoch(2)))
            restored = restore_right(new)
            assert restored.step == 1
            news.append(new)
        step = 1
        while step < 10 or time.monotonic() < deadline:
            step += 1
            for new in news:
                save_step(new, step)
                new.finish()
                assert new.last_error is None
            time.sleep(0.5)  # the pause is the fault
        for (root, _), old in zip(pauses, olds, strict=True):
            before = snapshot_of(root.folder)
            old.popen.send_signal(signal.SIGCONT)
            assert old.end() == ExitCode.FENCED, old.noise()
            after = snapshot_of(root.folder)
            assert {name: after.get(name) for name in before} == before, "a file of the newer writer was changed"
            assert not [
                name for name in after if name.startswith("steps/") and name not in before and ".000001." not in name
            ]
            committed = [(entry.step, entry.epoch) for entry in list_checkpoints(root.spec).committed]
            assert committed[:2] == [(step, epoch(2)), (step - 1, epoch(2))]
            assert epoch(1) not in {epoch for _, epoch in committed}
            trials.count(f"writers replaced while they were stopped for {pause_seconds} s")
