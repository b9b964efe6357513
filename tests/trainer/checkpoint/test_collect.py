"""Deletion: the newest checkpoints stay, only provably unused files are deleted, and an interrupted deletion is
continued.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from halcyon.checkpoint import list_checkpoints
from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import Head, decode_head, encode_head, step_prefix
from tests.trainer.checkpoint.helpers import (
    Root,
    epoch,
    fill,
    mesh,
    numbers,
    on,
    open_root,
    position,
    save_step,
    with_keep,
)


def steps(root: Root) -> list[str]:
    return sorted(path.name for path in (root.folder / "steps").iterdir())


def test_the_newest_checkpoints_are_kept_and_all_others_are_deleted(root: Root) -> None:
    fill(with_keep(root, 3), 1, 2, 3, 4, 5)
    assert [entry["step"] for entry in root.head["committed"]] == [5, 4, 3]
    assert root.head["deleting"] == []
    assert steps(root) == sorted(Path(entry["path"]).name for entry in root.head["committed"])
    fill(with_keep(root, 2), 6)
    assert [entry["step"] for entry in root.head["committed"]] == [6, 5]
    assert len(steps(root)) == 2


def test_an_interrupted_deletion_is_continued(file_root: Root) -> None:
    """Killed after HEAD named the prefix, after COMMIT was deleted, or while the data was deleted."""
    fill(with_keep(file_root, 5), 1, 2, 3, 4)
    head = decode_head((file_root.folder / "HEAD").read_bytes())
    going = head.committed[2:]
    (file_root.folder / going[0].path / "COMMIT").unlink()
    shutil.rmtree(file_root.folder / going[0].path / "data" / "weight")
    changed = head.model_copy(
        update={"committed": head.committed[:2], "deleting": tuple(entry.path for entry in going)}
    )
    (file_root.folder / "HEAD").write_bytes(encode_head(changed))
    assert set(list_checkpoints(file_root.spec).unfinished) == {entry.path for entry in going}
    fill(file_root, 5)
    assert [entry["step"] for entry in file_root.head["committed"]] == [5, 4]
    assert file_root.head["deleting"] == []
    assert len(steps(file_root)) == 2


def test_a_deletion_removes_the_commit_mark_first(file_root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deletion that stops while it deletes the data has already deleted COMMIT."""
    fill(file_root, 1, 2)

    def stop(store: Store, prefix: str) -> None:
        raise StoreFailure("UNAVAILABLE", "stopped here")

    monkeypatch.setattr(Store, "delete_prefix", stop)
    with open_root(file_root) as checkpointer:
        save_step(checkpointer, 3)
        checkpointer.finish()
        assert checkpointer.last_error is not None
        assert "old checkpoints could not be deleted (UNAVAILABLE: stopped here)" in checkpointer.last_error
    going = file_root.folder / file_root.head["deleting"][0]
    assert (going / "MANIFEST.json").exists()
    assert not (going / "COMMIT").exists()


def test_a_half_deleted_checkpoint_is_no_candidate_even_when_head_is_lost(file_root: Root) -> None:
    fill(file_root, 1, 2)
    going = decode_head((file_root.folder / "HEAD").read_bytes()).committed[0]
    (file_root.folder / going.path / "COMMIT").unlink()
    (file_root.folder / "HEAD").unlink()
    assert [entry.step for entry in list_checkpoints(file_root.spec).committed] == [1]


def test_leftovers_of_older_epochs_are_deleted_and_foreign_files_are_not(root: Root) -> None:
    fill(root, 1, epoch=epoch(3))
    dead = [step_prefix(2, 2, "old-1"), step_prefix(2, 3, "same-epoch-1")]
    foreign = ["steps/notes.txt", "steps/latest/COMMIT", "quarantine/x", "compiled/key", "data/x"]
    for name in [f"{prefix}data/x/c/0" for prefix in dead] + [f"{dead[0]}COMMIT", *foreign]:
        (root.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (root.folder / name).write_bytes(b"?")
    assert set(list_checkpoints(root.spec).unfinished) == set(dead)
    fill(root, 2, epoch=epoch(4))
    assert list_checkpoints(root.spec).unfinished == ()
    assert all((root.folder / name).read_bytes() == b"?" for name in foreign)
    assert not any((root.folder / prefix).exists() for prefix in dead)


def test_leftovers_of_a_kill_in_the_first_write_are_deleted(file_root: Root) -> None:
    """It left a lock file and no key."""
    fill(file_root, 1)
    left = file_root.folder / step_prefix(2, 1, "killed-1") / "data/x/c"
    left.mkdir(parents=True)
    (left / "0.__lock").write_bytes(b"half a chunk")
    fill(file_root, 2)
    assert len(steps(file_root)) == 2


@pytest.mark.parametrize("leftover", ["HEAD.__lock", "HEAD_0123456789abcdef.__lock", "PROBE.__lock"])
def test_lock_files_of_a_killed_writer_never_get_into_head(file_root: Root, leftover: str) -> None:
    """TensorStore writes a value to its lock file, so the end of a longer old lock file would stay in the next
    value.
    """
    fill(file_root, 1)
    (file_root.folder / leftover).write_bytes(b"J" * 100_000)
    fill(file_root, 2)
    assert list_checkpoints(file_root.spec).head_damage is None
    assert sorted(path.name for path in file_root.folder.iterdir()) == ["HEAD", "LOCK", "PROBE", "heads", "steps"]


def test_nothing_is_deleted_by_a_process_that_has_lost_the_root(file_root: Root) -> None:
    """It listed a prefix of the newer epoch.

    Only its read of HEAD after the listing prevents the deletion of that prefix.
    """
    state = on(mesh(2, 2), numbers(1))
    with open_root(file_root, epoch=epoch(1)) as old:
        old.save(1, state, position(1))
        old.finish()
        newer = file_root.folder / step_prefix(2, 2, "new-1") / "data/x"
        newer.mkdir(parents=True)
        (newer / "c").write_bytes(b"under way")
        head = decode_head((file_root.folder / "HEAD").read_bytes())
        taken = Head(owner=head.owner, epoch=epoch(2), writer="new", committed=head.committed)
        (file_root.folder / "HEAD").write_bytes(encode_head(taken))
        old._saver._orphans_deleted = False  # type: ignore[attr-defined]  # its first clean-up has not run yet
        old._tidy()
        assert (newer / "c").exists()
