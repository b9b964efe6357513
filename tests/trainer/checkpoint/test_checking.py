"""The history beside the links that name its files: in each state that a kill can leave, all is what was written."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from halcyon.checkpoint.evidence import StepNumbers
from halcyon.checkpoint.opening import committed_steps
from halcyon.commands.copy_checkpoint import copy_checkpoint
from halcyon.host.storage.store import Store
from halcyon.telemetry.history.background import Row
from halcyon.telemetry.history.checking import Evidence, read_evidence
from halcyon.telemetry.history.segments import METRICS_PREFIX
from halcyon_api.checkpoint_documents import SEGMENTS_KEY
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.suite.limits import limit
from tests.trainer.checkpoint.helpers import Root, open_root, restore_newest, save_step
from tests.trainer.telemetry.history.rows import Recorder, group, row

pytestmark = pytest.mark.slow


def train(root: Root, last: int, *, ends: bool = True, flushes: int = 1, loses: bool = False) -> None:
    """Steps from the newest checkpoint on, with a save after every second one, and their history.

    Args:
        root: The root.
        last: The last step.
        ends: Whether the process ends; otherwise it is killed after its last step.
        flushes: Flushes between two saves.
        loses: Whether the process is killed before it learns of its commits.
    """
    known = StepNumbers()
    with open_root(root) as checkpointer:
        restored = restore_newest(checkpointer)
        first = 0 if restored is None else restored.step
        epoch, writer = checkpointer.epoch, checkpointer.writer
        recorder = Recorder(
            root.spec, replace(group(1, resumed=first, attempt=epoch.attempt, writer=writer), restart=epoch.restart)
        )
        checkpointer.segments = recorder.writer.written
        for step in range(first + 1, last + 1):
            known.add(step, 1.0 / step, 0.5)
            recorder.flush([row(step, 1.0 / step, gradientNorm=0.5, learningRate=0.1)])
            for _ in range(flushes - 1):
                recorder.flush([Row("warning", 1.0, {"message": "slow"})])
            if step % 2 == 0:
                save_step(checkpointer, step, None, known)
                checkpointer.finish()
                if not loses:
                    recorder.flush([Row("checkpoint", 1.0, {"step": step})])
    if ends:
        recorder.flush([Row("done", 1.0, {"step": last})])
        recorder.writer.close(limit(60.0))


def shown(root: Root) -> Evidence:
    return read_evidence(Store(root.spec))


def test_each_link_names_the_files_of_the_history_and_the_end_names_the_rest(file_root: Root) -> None:
    train(file_root, 12, ends=False)
    killed = shown(file_root)
    assert (killed.damages, killed.chain.damages) == ((), ())
    assert len(killed.chain.segments) > 1
    assert "no link covers 1 file yet" in killed.says, "its rows have no step"
    train(file_root, 16)
    ended = shown(file_root)
    assert ended.damages == ()
    assert ended.says.endswith("is what was written")
    assert "no link" not in ended.says
    train(file_root, 18, ends=False)
    assert Store(file_root.spec).read(SEGMENTS_KEY).data is None, "a link has replaced it"
    assert shown(file_root).damages == ()


@pytest.mark.parametrize(("loses", "flushes"), [(True, 9), (False, 3)])
def test_merges_between_two_links_leave_what_the_links_name(loses: bool, flushes: int, file_root: Root) -> None:
    for last in (4, 10, 20):
        train(file_root, last, ends=False, loses=loses, flushes=flushes)
        assert shown(file_root).damages == ()
    assert any(".0." not in key for key in Store(file_root.spec).list(METRICS_PREFIX))


def test_a_head_that_is_rebuilt_or_goes_back_keeps_its_history(file_root: Root) -> None:
    train(file_root, 12, ends=False, flushes=5)
    (newest, *_) = committed_steps(Store(file_root.spec))
    next((file_root.folder / newest.path / "data").rglob("c/**/0")).write_bytes(b"")
    train(file_root, 16, ends=False, flushes=5)  # from an older checkpoint
    assert shown(file_root).damages == ()
    (file_root.folder / "HEAD").unlink()
    assert shown(file_root).damages == ()


def test_a_file_that_a_link_names_is_missed(file_root: Root) -> None:
    train(file_root, 4, ends=False)
    files = sorted((file_root.folder / "metrics").iterdir())
    for path in files[:-1]:
        data = path.read_bytes()
        path.unlink()
        assert f"metrics/{path.name} is missing" in shown(file_root).damages
        path.write_bytes(data)
    files[0].unlink()
    train(file_root, 12, ends=False, flushes=4)  # merges do not forget it
    assert any(files[0].name in damage for damage in shown(file_root).damages)


def test_a_copy_names_the_file_that_it_has_written(file_root: Root, tmp_path: Path) -> None:
    train(file_root, 12)
    to = CheckpointSpec(root=f"file://{tmp_path / 'copy'}")
    copy_checkpoint(Store(file_root.spec), committed_steps(Store(file_root.spec))[1], Store(to))
    copy = Root(to, tmp_path / "copy", {})
    found = shown(copy)
    assert found.damages == ()
    assert "a copy wrote them, so only losses and gradient norms are compared with the links" in found.says
    train(copy, 14, ends=False)
    assert shown(copy).damages == ()
    shutil.rmtree(tmp_path / "copy" / "metrics")
    assert "the history lacks 2 steps (13 to 14), which the link of step 14 covers" in shown(copy).damages
