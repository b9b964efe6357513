"""Checkpoints read back after their commit: a verified one is marked and kept; a damaged one is set aside and a new
save requested.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from halcyon.checkpoint import Callbacks, Checkpointer, list_checkpoints, readback
from halcyon.checkpoint.head import with_commit, with_damage, with_read_back_mark, with_verified
from halcyon.checkpoint.retention import Retention, dispensable, kept_for_verification
from halcyon.host.storage.failures import StoreFailure
from halcyon_api.checkpoint_documents import BadStep, CommittedStep, Head
from halcyon_api.spec.checkpoint import VerifySpec
from tests.suite.limits import limit
from tests.trainer.checkpoint.helpers import OWNER, NeverAnswered, Root, epoch, open_root, restore_right, save_step
from tests.trainer.checkpoint.test_process_groups import WriterGroup


def reading(root: Root, every: int, **changes: Any) -> Root:
    """The same root, where every `every`-th checkpoint is read back."""
    return Root(
        root.spec.model_copy(update={"verify": VerifySpec(every_saves=every), **changes}), root.folder, root.environment
    )


def save(checkpointer: Checkpointer, step: int) -> None:
    save_step(checkpointer, step)
    checkpointer.finish()


class ReadBacks:
    """Records what a checkpointer reports about checkpoints that it read back."""

    def __init__(self) -> None:
        self._came = threading.Semaphore(0)
        self._all: list[tuple[int, str | None]] = []

    def take(self, entry: CommittedStep, damage: str | None) -> None:
        self._all.append((entry.step, damage))
        self._came.release()

    def next(self) -> tuple[int, str | None]:
        assert self._came.acquire(timeout=limit(60))
        return self._all[-1]


def test_every_nth_checkpoint_is_read_back_and_the_newest_verified_one_is_kept(root: Root) -> None:
    root = reading(root, 3)
    read_backs = ReadBacks()
    with open_root(root, callbacks=Callbacks(on_read_back=read_backs.take)) as checkpointer:
        for step in range(1, 6):
            save(checkpointer, step)
            if step == 3:
                assert read_backs.next() == (3, None)
        assert {entry.step: entry.verification for entry in list_checkpoints(root.spec).committed} == {
            5: None,
            4: None,
            3: "passed",
        }
        save(checkpointer, 6)
        assert read_backs.next() == (6, None)
        save(checkpointer, 7)
    assert {entry.step: entry.verification for entry in list_checkpoints(root.spec).committed} == {7: None, 6: "passed"}
    assert not [path for path in root.files() if "/checks/" in str(path)]


def test_a_checkpoint_damaged_after_its_commit_is_set_aside_and_a_new_save_is_requested(
    file_root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = reading(file_root, 2)
    read_back = readback.read_back

    def spoil(store: Any, entry: CommittedStep, files: Any, **options: Any) -> Any:
        chunk = root.folder / entry.path / "data/weight/c/0/1"
        chunk.write_bytes(chunk.read_bytes()[::-1])
        return read_back(store, entry, files, **options)

    monkeypatch.setattr("halcyon.checkpoint.readback.read_back", spoil)
    read_backs, told = ReadBacks(), list[int]()
    callbacks = Callbacks(on_read_back=read_backs.take, on_newest=lambda one: told.append(one.step if one else 0))
    with open_root(root, callbacks=callbacks) as checkpointer:
        save(checkpointer, 1)
        assert not checkpointer.due(0)
        save(checkpointer, 2)
        reason = "data/weight/c/0/1 does not have the hash that the manifest names"
        assert read_backs.next() == (2, reason)
        assert [(bad["step"], bad["reason"]) for bad in root.head["bad"]] == [(2, reason)]
        assert [entry["step"] for entry in root.head["committed"]] == [1]
        assert told == [1], "the reports name the checkpoint from which the next start goes on"
        assert checkpointer.newest is not None
        assert (checkpointer.newest.step, checkpointer.kept) == (2, checkpointer.agreed())
        assert checkpointer.kept is not None
        assert checkpointer.kept.step == checkpointer.newest.step == 1
        assert checkpointer.due(0), "the damage, not the time, must request a save"
        save(checkpointer, 3)
        assert not checkpointer.due(0)
    with open_root(root) as checkpointer:
        restored = restore_right(checkpointer)
    assert (restored.step, restored.skipped) == (3, ())


def test_neither_a_save_nor_the_end_of_the_run_waits_for_the_read_back(
    file_root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = reading(file_root, 1)
    begun = threading.Event()

    def hang(store: Any, entry: CommittedStep, file: Any) -> bytes:
        begun.set()
        store._wait(NeverAnswered)
        return b""

    monkeypatch.setattr(readback, "read_file", hang)
    with open_root(root) as checkpointer:
        save(checkpointer, 1)
        assert begun.wait(limit(60))
        for step in (2, 3, 4):
            save(checkpointer, step)
        assert {entry.step: entry.verification for entry in list_checkpoints(root.spec).committed} == {
            4: None,
            3: None,
            1: "wanted",
        }
    assert checkpointer.last_error is None


def test_a_store_that_does_not_answer_is_no_damage(file_root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    root = reading(file_root, 1)

    def refuse(*_: Any) -> bytes:
        raise StoreFailure("UNAVAILABLE", "try later")

    monkeypatch.setattr(readback, "read_file", refuse)
    warned = threading.Event()
    with open_root(
        root,
        callbacks=Callbacks(
            on_warning=lambda text: warned.set() if "could not be read back: UNAVAILABLE" in text else None
        ),
    ) as checkpointer:
        save(checkpointer, 1)
        assert warned.wait(limit(60))
    assert [entry.step for entry in list_checkpoints(root.spec).committed] == [1]
    assert list_checkpoints(root.spec).bad == ()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 3])
def test_every_process_reads_what_it_wrote(file_root: Root, victim: int) -> None:
    """A file of process 0, or of another process, is reversed between the commit and the read-back."""
    root = reading(file_root, 2)
    shardings = {"weight": ["fsdp"], "half": [None, "fsdp"], "bias": [], "counts": ["fsdp"]}
    with WriterGroup(root, 4, steps=4, shardings=shardings, readBack=victim) as group:
        assert group.run() == [0] * 4, group.children[0].noise()
        read_backs = group.events_of("readBack")
    reason = f"data/weight/c/{victim}/0 does not have the hash that the manifest names"
    assert read_backs == [
        [{"event": "readBack", "step": 2, "damage": reason}, {"event": "readBack", "step": 4, "damage": None}],
        [],
        [],
        [],
    ]
    assert [bad["step"] for bad in root.head["bad"]] == [2]
    assert [(entry["step"], entry.get("verification")) for entry in root.head["committed"]] == [
        (4, "passed"),
        (3, None),
    ]


def head(*states: str | None) -> Head:
    """A HEAD whose steps count down to 1, with these verifications."""
    return Head(
        owner=OWNER,
        epoch=epoch(1),
        committed=tuple(entry(len(states) - number, state) for number, state in enumerate(states)),
    )


def entry(step: int, state: str | None = None) -> CommittedStep:
    document = {"step": step, "epoch": epoch(1), "path": f"{step}/", "manifest_sha256": "0" * 64, "size_bytes": 1}
    return CommittedStep(**document, time="2026-01-01T00:00:00Z", verification=state)


@pytest.mark.parametrize(
    ("states", "stays"),
    [
        ((None, None), set()),
        ((None, "passed", "passed"), {2}),
        (("wanted", None, "passed", "wanted"), {4, 2}),
        ((None, "wanted", None), {2}),
        (("passed", "wanted"), {2}),
    ],
)
def test_checkpoints_that_are_needed_for_verification_are_kept(states: tuple[str | None, ...], stays: set[int]) -> None:
    assert kept_for_verification(head(*states).committed) == {f"{step}/" for step in stays}
    after = with_commit(head(*states), entry(9), Retention(2))
    assert {f"{step}/" for step in stays} <= {one.path for one in after.committed}
    gone = dispensable(head(*states), Retention(10))
    assert gone is None or gone.step not in stays


def test_a_read_back_is_due_after_n_commits_of_any_process() -> None:
    now = head()
    marked = []
    for step in range(1, 8):
        now = with_read_back_mark(with_commit(now, entry(step), Retention(9)), 0 if step == 3 else 3)
        marked += [step] if now.committed[0].verification == "wanted" else []
    assert marked == [4, 7], "at step 3 another checkpoint was still being read"


def test_a_checkpoint_that_is_being_deleted_is_not_reported_as_damaged() -> None:
    now = head(None, None)
    bad = BadStep(path="gone/", step=7, reason="data/x is missing")
    assert with_damage(now, bad) == now
    assert [one.step for one in with_damage(now, bad.model_copy(update={"path": "2/"})).bad] == [7]
    assert with_verified(now, "gone/") == now
