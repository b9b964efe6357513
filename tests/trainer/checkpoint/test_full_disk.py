"""A full disk costs the new checkpoint, but never the training, nor one of the two newest checkpoints, nor a pinned or
permanent one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halcyon.checkpoint import Callbacks, SaveFailed, list_checkpoints, parts
from halcyon.checkpoint.head import edit, with_pin
from halcyon.checkpoint.retention import Retention, with_early_deletion
from halcyon.checkpoint.verify import find_damage
from halcyon.host.storage.failures import StoreFailure, from_tensorstore
from halcyon.host.storage.store import Store
from halcyon.step.compilation import CompilationCache
from halcyon_api.checkpoint_documents import HEAD_KEY, CommittedStep, Head
from halcyon_api.spec.checkpoint import CheckpointSpec, PermanentSpec
from tests.trainer.checkpoint.disks import small_disk, small_disk_free
from tests.trainer.checkpoint.helpers import (
    OWNER,
    REPOSITORY,
    Root,
    epoch,
    fill,
    mesh,
    numbers,
    on,
    open_root,
    position,
    same_bits,
    save_step,
    template,
    with_keep,
)
from tests.trainer.checkpoint.test_process_groups import WriterGroup

__all__ = ["small_disk"]
INSIDE = "HALCYON_TEST_SMALL_DISK"


@pytest.mark.skipif(os.geteuid() == 0 or INSIDE in os.environ, reason="the tests run directly where they may mount")
def test_the_tests_of_this_file_pass_in_a_user_namespace() -> None:
    """Run this file as root of a user namespace, because only root may mount."""
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-m", "pytest", "-q", __file__]
    subprocess.run(command, check=True, env=os.environ | {INSIDE: "1"}, cwd=REPOSITORY)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount; see the test before")
def test_a_save_onto_a_full_disk_fails_and_leaves_no_files(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = mesh(2, 2)
    root = Root(CheckpointSpec(root=f"file://{small_disk}/root"), small_disk / "root")

    def large(step: int) -> dict[str, object]:
        return {**numbers(step), "counts": np.full((8, 3 << 14), step, np.int32)}  # 1.5 MiB

    failures: list[str] = []
    with open_root(root, callbacks=Callbacks(on_failure=failures.append)) as checkpointer:
        for step in (1, 2):
            save_step(checkpointer, step, devices=devices)
            checkpointer.finish()
        head = (root.folder / "HEAD").read_bytes()
        sentence = (
            r"^the checkpoint at step 3 was not saved: checkpoint root .* has no space left; free some .* \(.* \d+ "
            r"bytes are free, 15"
        )
        checkpointer.save(3, on(devices, large(3)), position(3))
        with pytest.raises(SaveFailed, match=sentence):
            checkpointer.finish()
        failures.clear()
        with monkeypatch.context() as blind:  # some network file systems do not report their free space
            blind.setattr(Store, "free_bytes", lambda store: None)
            checkpointer.save(3, on(devices, large(3)), position(3))
            with pytest.raises(
                SaveFailed, match=sentence.replace(r"\(.* \d+ bytes are free, 15", r"No space left on device")
            ):
                checkpointer.finish()
        assert failures == [checkpointer.last_error]
        assert (root.folder / "HEAD").read_bytes() == head
        assert list_checkpoints(root.spec).unfinished == (), "its files are removed, so the next save has room"
        assert [find_damage(Store(root.spec), entry) for entry in list_checkpoints(root.spec).committed] == [(), ()]

        (small_disk / "filler").write_bytes(b"x" * (small_disk_free(small_disk) - 4096))
        save_step(checkpointer, 4, devices=devices)
        with pytest.raises(SaveFailed, match=r"step 4 was not saved: .* no space left"):
            checkpointer.finish()
        (small_disk / "filler").unlink()

        save_step(checkpointer, 5, devices=devices)
        checkpointer.finish()
        assert checkpointer.last_error is None
    with open_root(root) as checkpointer:
        restored = checkpointer.restore(template(devices))
    assert restored is not None
    assert same_bits(restored.state, numbers(5))
    assert [entry.step for entry in list_checkpoints(root.spec).committed] == [5, 2]


def committed(root: Root) -> list[int]:
    listing = list_checkpoints(root.spec)
    assert all(find_damage(Store(root.spec), entry) == () for entry in listing.committed)
    assert listing.unfinished == ()
    return [entry.step for entry in listing.committed]


def roomy(small_disk: Path, **changes: object) -> Root:
    """A run that keeps more checkpoints than fit on the disk: a file takes at least a page of 4 KiB, a checkpoint about
    30 pages.
    """
    spec = CheckpointSpec(root=f"file://{small_disk}/root", keep=10)
    return Root(spec.model_copy(update=changes), small_disk / "root")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount; see above")
def test_the_oldest_dispensable_checkpoint_is_deleted_so_that_the_save_succeeds(small_disk: Path) -> None:
    root = roomy(small_disk, permanent=[PermanentSpec(every_steps=1, until_step=1)])
    warnings: list[str] = []
    devices = mesh(2, 2)
    with open_root(root, callbacks=Callbacks(on_warning=warnings.append)) as checkpointer:
        for step in range(1, 8):
            save_step(checkpointer, step, devices=devices)
            checkpointer.finish()
            if step == 2:
                edit(Store(root.spec), lambda head: with_pin(head, head.committed[0].path))
            assert checkpointer.newest is not None
            assert checkpointer.newest.step == step
    assert len(warnings) > 1
    assert "step 3 was deleted early" in warnings[0]
    assert {7, 6, 2, 1} <= set(committed(root)), "the newest two, the pinned one and the permanent one"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount; see above")
@pytest.mark.parametrize("tells_free", [True, False], ids=["before the save", "in the middle of it"])
def test_compiled_programs_are_deleted_before_any_checkpoint(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, tells_free: bool
) -> None:
    root = roomy(small_disk)
    warnings: list[str] = []
    with open_root(root, callbacks=Callbacks(on_warning=warnings.append)) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, {"x": np.full((64, 128), step)}, position(step))  # 64 KiB
            checkpointer.finish()
        program = root.folder / "compilation/program"
        program.mkdir(parents=True)
        (program / "jit_step-cache").write_bytes(b"x" * (small_disk_free(small_disk) - 16 * 1024))
        if not tells_free:
            monkeypatch.setattr(Store, "free_bytes", lambda store: None)
        checkpointer.save(4, {"x": np.full((64, 128), 4)}, position(4))
        checkpointer.finish()
    assert committed(root) == [4, 3, 2, 1]
    assert len(warnings) == 1
    assert "compiled programs" in warnings[0]
    assert not list(root.folder.glob("compilation/**/*-cache"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount; see above")
def test_compiled_programs_take_no_room_that_checkpoints_need(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "jit_step-cache").write_bytes(b"x" * 100_000)
    programs = CompilationCache(tmp_path, Store(roomy(small_disk).spec), "program")
    assert programs.publish(reserved_bytes=400_000) == 0
    assert programs.publish(reserved_bytes=100_000) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount; see above")
def test_space_is_freed_before_the_first_byte_if_there_is_too_little(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = roomy(small_disk)
    warnings: list[str] = []
    with open_root(root, callbacks=Callbacks(on_warning=warnings.append)) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, {"x": np.full((64, 128), step)}, position(step))  # 64 KiB
            checkpointer.finish()
        (small_disk / "filler").write_bytes(b"x" * (small_disk_free(small_disk) - 72 * 1024))
        monkeypatch.setattr(parts, "write_files", _whole(parts.write_files, lambda: committed_now(root) == [3, 2]))
        checkpointer.save(4, {"x": np.full((64, 128), 4)}, position(4))
        checkpointer.finish()
    assert len(warnings) == 1
    assert committed(root) == [4, 3, 2]


def _whole(work: Callable[..., Any], holds: Callable[[], bool]) -> Callable[..., Any]:
    def checked(*args: Any, **options: Any) -> Any:
        assert holds()
        return work(*args, **options)

    return checked


def committed_now(root: Root) -> list[int]:
    """The steps in HEAD, read while a run writes to the root."""
    return [entry["step"] for entry in root.head["committed"]]


@pytest.mark.parametrize("answers", [True, False])
def test_a_save_whose_head_finds_no_space_is_repeated_or_keeps_its_files(
    file_root: Root, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """A write that the disk rejected did not arrive.

    But if HEAD cannot be read, it may have changed, and then the files stay.
    """
    root = with_keep(file_root, 10)
    fill(root, 1, 2, 3)
    swap, read = Store.swap, Store.read
    refused = []

    def refuse(store: Store, key: str, data: bytes, generation: bytes) -> Any:
        if key == HEAD_KEY and not refused:
            refused.append(key)
            raise StoreFailure("RESOURCE_EXHAUSTED", "Failed writing: No space left on device")
        return swap(store, key, data, generation)

    def look(store: Store, key: str) -> Any:
        if refused and key == HEAD_KEY and not answers:
            raise StoreFailure("UNAVAILABLE", "try later")
        return read(store, key)

    with open_root(root) as checkpointer:
        monkeypatch.setattr(Store, "swap", refuse)
        monkeypatch.setattr(Store, "read", look)
        save_step(checkpointer, 4)
        if answers:
            checkpointer.finish()
        else:
            with pytest.raises(SaveFailed, match="it is unknown whether HEAD was changed"):
                checkpointer.finish()
        monkeypatch.undo()
    if answers:
        assert committed(root) == [4, 3, 2]
    else:
        assert committed_now(root) == [3, 2, 1]
        assert len(list((root.folder / "steps").iterdir())) == 4, (
            "files of a checkpoint that may be committed were deleted"
        )


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount; see above")
def test_several_processes_repeat_a_save_together(small_disk: Path) -> None:
    root = roomy(small_disk)
    with WriterGroup(root, 2, steps=8, mesh=[2, 2]) as group:
        assert group.run() == [0, 0], [child.events for child in group.children]
        commits = group.events_of("committed")
        assert commits == [[{"event": "committed", "step": step, "newest": step} for step in range(1, 9)]] * 2
        assert group.events_of("warned")[0] != [], "the disk was never full"
    assert committed(root)[:2] == [8, 7]
    assert any(entry.path.endswith("-2/") for entry in list_checkpoints(root.spec).committed)


@pytest.mark.parametrize(
    ("steps", "pinned", "gone"),
    [
        ((9, 8), (), None),
        ((9, 8, 7), (), 7),
        ((9, 8, 7, 6), (6,), 7),
        ((9, 8, 5), (), None),
        ((9, 8, 7, 5), (7,), None),
        ((9,), (), None),
    ],
)
def test_only_the_oldest_dispensable_checkpoint_may_be_deleted_early(
    steps: tuple[int, ...], pinned: tuple[int, ...], gone: int | None
) -> None:
    entries = [
        CommittedStep(
            step=step,
            epoch=epoch(1),
            path=f"{step}/",
            manifest_sha256="0" * 64,
            size_bytes=1,
            time="2026-01-01T00:00:00Z",
        )
        for step in steps
    ]
    head = Head(
        owner=OWNER,
        epoch=epoch(1),
        committed=tuple(entries),
        pinned=tuple(f"{step}/" for step in pinned),
        deleting=("old/",),
    )
    retention = Retention(10, (PermanentSpec(every_steps=5),))
    after = with_early_deletion(head, retention)
    assert [entry.step for entry in after.committed] == [step for step in steps if step != gone]
    assert after.deleting == (("old/",) if gone is None else ("old/", f"{gone}/"))


def test_a_quota_is_a_full_disk_and_too_many_open_files_are_not() -> None:
    texts = (
        "No space left on device [os_error_code='28']",
        "Disk quota exceeded [os_error_code='122']",
        "Too many open files",
    )
    assert [from_tensorstore(ValueError(f"RESOURCE_EXHAUSTED: Failed writing: {text}")).is_full for text in texts] == [
        True,
        True,
        False,
    ]
