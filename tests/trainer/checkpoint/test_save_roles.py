"""A failed save is reported, does no harm to older checkpoints, and the next save succeeds."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.checkpoint import Callbacks, SaveFailed, list_checkpoints, parts
from halcyon.checkpoint.verify import find_damage
from halcyon.host.errors import RunChanged
from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import HEAD_KEY
from halcyon_api.ends import ExitCode
from halcyon_devcluster.waiting import until
from tests.suite.limits import limit
from tests.trainer.checkpoint.helpers import (
    REPOSITORY,
    NeverAnswered,
    Root,
    child_environment,
    fill,
    open_root,
    position,
    restore_newest,
    save_step,
)

SAVED = {"a": np.zeros(3, np.float32), "b": np.zeros(2, np.int32)}


def committed(root: Root) -> list[int]:
    listing = list_checkpoints(root.spec)
    assert all(find_damage(Store(root.spec), entry) == () for entry in listing.committed)
    return [entry.step for entry in listing.committed]


def unplug(monkeypatch: pytest.MonkeyPatch, method: str, spoil: Callable[..., Any]) -> Callable[[], None]:
    """Replace a method of the store; the returned function restores it."""
    original = getattr(Store, method)
    monkeypatch.setattr(Store, method, lambda *args: spoil(original, *args))
    return lambda: monkeypatch.setattr(Store, method, original)


def test_a_file_that_the_store_cut_short_fails_the_save(file_root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_root(file_root) as checkpointer:
        save_step(checkpointer, 1)
        checkpointer.finish()
        mend = unplug(
            monkeypatch,
            "write",
            lambda write, store, key, data: write(store, key, data[:-9] if key.endswith("weight/c/1/0") else data),
        )
        save_step(checkpointer, 2)
        with pytest.raises(
            SaveFailed,
            match=r"step 2 was not saved: .* the store accepted steps/.*/data/[a-z]*/c/1/0 but does not hold it",
        ):
            checkpointer.finish()
        mend()
        assert committed(file_root) == [1]
        assert list_checkpoints(file_root.spec).unfinished == ()
        save_step(checkpointer, 3)
        checkpointer.finish()
        assert checkpointer.last_error is None
    assert committed(file_root) == [3, 1]


def test_a_file_that_vanished_before_the_commit_fails_the_save(
    file_root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files = parts.write_files

    def lose_one(*args: Any, **options: Any) -> Any:
        files = write_files(*args, **options)
        next(file_root.folder.rglob("bias/c/0")).unlink()
        return files

    monkeypatch.setattr(parts, "write_files", lose_one)
    with open_root(file_root) as checkpointer:
        save_step(checkpointer, 1)
        with pytest.raises(SaveFailed, match=r"1 files are missing from the store, among them steps/.*/data/bias/c/0"):
            checkpointer.finish()
    assert committed(file_root) == []


@pytest.mark.parametrize("arrived", [False, True])
def test_the_files_of_a_commit_with_a_lost_answer_stay_until_head_decides(
    file_root: Root, monkeypatch: pytest.MonkeyPatch, arrived: bool
) -> None:
    """It is not known whether the commit happened: the files stay until a later change of HEAD decides."""

    def lose_answer(swap: Any, store: Store, key: str, data: bytes, generation: bytes) -> None:
        if key == HEAD_KEY and arrived:
            swap(store, key, data, generation)
        if key == HEAD_KEY:
            raise StoreFailure("DEADLINE_EXCEEDED", "no answer")
        return swap(store, key, data, generation)

    with open_root(file_root) as checkpointer:
        save_step(checkpointer, 1)
        checkpointer.finish()
        mend = unplug(monkeypatch, "swap", lose_answer)
        save_step(checkpointer, 2)
        with pytest.raises(SaveFailed, match=r"it is unknown whether HEAD was changed; .* could not be reached"):
            checkpointer.finish()
        mend()
        assert committed(file_root) == ([2, 1] if arrived else [1])
        assert len(list((file_root.folder / "steps").iterdir())) == 2, (
            "files of a checkpoint that may be committed were deleted"
        )
        save_step(checkpointer, 3)
        checkpointer.finish()
        assert checkpointer.last_error is None
    assert committed(file_root) == ([3, 2] if arrived else [3, 1])
    assert len(list((file_root.folder / "steps").iterdir())) == 2


def test_a_swap_that_the_driver_retried_is_not_reported_as_lost(
    file_root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try succeeded, so the answer to the second one is that it lost."""

    def twice(swap: Any, store: Store, key: str, data: bytes, generation: bytes) -> Any:
        if key == HEAD_KEY:
            swap(store, key, data, generation)
        return swap(store, key, data, generation)

    unplug(monkeypatch, "swap", twice)
    with open_root(file_root) as checkpointer:
        for step in (1, 2, 3):
            save_step(checkpointer, step)
            checkpointer.finish()
            assert checkpointer.last_error is None
    assert committed(file_root) == [3, 2]


def test_one_save_is_in_flight_and_the_next_waits_for_it(file_root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    write_files = parts.write_files
    begun: list[str] = []

    def wait(store: Store, prefix: str, *args: Any, **options: Any) -> Any:
        begun.append(prefix)
        assert gate.wait(limit(60))
        return write_files(store, prefix, *args, **options)

    monkeypatch.setattr(parts, "write_files", wait)
    state = {"x": jnp.zeros(4)}
    with open_root(file_root) as checkpointer:
        checkpointer.save(1, state, position(1))
        until(
            lambda: bool(begun),
            timeout_seconds=60,
            interval_seconds=0.01,
            failure=lambda: "the first save does not begin",
        )
        second = threading.Thread(target=lambda: checkpointer.save(2, {"x": jnp.ones(4)}, position(2)))
        second.start()
        second.join(0.2)
        assert second.is_alive()
        assert len(begun) == 1
        gate.set()
        second.join(limit(60))
        checkpointer.finish()
    assert committed(file_root) == [2, 1]


def test_closing_abandons_the_save_in_flight(file_root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = threading.Event()

    def hang(tail: Any, store: Store, key: str, start: int) -> Any:
        reached.set()
        store._wait(NeverAnswered)
        return tail(store, key, start)

    mend = unplug(monkeypatch, "tail", hang)
    checkpointer = open_root(file_root)
    save_step(checkpointer, 1)
    assert reached.wait(limit(60))
    checkpointer.close()
    with pytest.raises(SaveFailed, match="step 1 was not saved: the process abandoned it"):
        checkpointer.finish()
    assert committed(file_root) == []
    mend()
    fill(file_root, 2)
    assert list_checkpoints(file_root.spec).unfinished == ()


@pytest.mark.slow
def test_a_process_ends_when_its_main_thread_has_ended(file_root: Root) -> None:
    """An uncaught error in the loop must end the process, although the part of another process never arrives."""
    program = """
import jax
from tests.trainer.checkpoint.helpers import *
from pathlib import Path
from halcyon_api.spec.checkpoint import CheckpointSpec
import sys
class Two(OneProcess):
    process_count = 2
from halcyon.checkpoint import checkpointer
checkpointer.gather_texts = lambda group, text: [text]
opened = open_root(Root(CheckpointSpec(root=sys.argv[1]), Path()), processes=Two())
opened.save(1, {"x": jax.numpy.zeros(3)}, position(1))
raise SystemExit(7)
"""
    command = [sys.executable, "-c", program, file_root.spec.root]
    ended = subprocess.run(
        command, env=child_environment(file_root), cwd=REPOSITORY, timeout=limit(50), capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (7, "")


def test_an_error_in_a_callback_is_raised_at_the_next_call(file_root: Root) -> None:
    def fail(report: object) -> None:
        raise KeyError("reporter")

    with open_root(file_root, callbacks=Callbacks(on_commit=fail)) as checkpointer:
        save_step(checkpointer, 1)
        with pytest.raises(KeyError, match="reporter"):
            checkpointer.finish()
    assert committed(file_root) == [1]


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"a": np.zeros(3, np.float32)}, "the checkpoint has an array b that the state does not have at step 1"),
        (
            {"a": np.zeros(3, np.float32), "b": np.zeros(2, np.int32), "c": np.zeros(1)},
            "the state has an array c that the checkpoint does not have",
        ),
        (
            {"a": np.zeros(4, np.float32), "b": np.zeros(2, np.int32)},
            r"array a is float32\[4\], the checkpoint's is float32\[3\]",
        ),
        (
            {"a": np.zeros(3, np.float32), "b": np.zeros(2, np.int64)},
            r"array b is int64\[2\], the checkpoint's is int32\[2\]",
        ),
    ],
)
def test_arrays_that_differ_from_the_checkpoint_are_named(
    file_root: Root, wanted: dict[str, np.ndarray], text: str
) -> None:
    fill(file_root, 1, make=lambda step: SAVED)
    with open_root(file_root) as checkpointer, pytest.raises(RunChanged, match=text):
        checkpointer.restore(wanted)
    assert committed(file_root) == [1]


def test_a_root_that_fails_while_restoring_is_no_damage(file_root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(file_root, 1, 2)

    def unavailable(read: Any, store: Store, key: str) -> Any:
        if "/data/" in key:
            raise StoreFailure("UNAVAILABLE", "connection reset")
        return read(store, key)

    with open_root(file_root) as checkpointer:
        unplug(monkeypatch, "read", unavailable)
        with pytest.raises(
            Exception,
            match=r"could not be reached; look at the store and the network \(UNAVAILABLE: connection reset\)",
        ) as caught:
            restore_newest(checkpointer)
        assert caught.value.exit_code == ExitCode.ROOT_UNUSABLE
    monkeypatch.undo()
    assert committed(file_root) == [2, 1]
    assert list_checkpoints(file_root.spec).bad == ()


def test_paths_of_a_deep_state_become_folders(tmp_path: Path, file_root: Root) -> None:
    state = {"model": [{"w/x": np.arange(3.0)}, {"w/x": np.arange(4.0)}], "count": 1}
    fill(file_root, 1, make=lambda step: state)
    prefix = list_checkpoints(file_root.spec).committed[0].path
    assert sorted(path.name for path in (file_root.folder / prefix / "data").iterdir()) == [
        "count",
        "model.0.w=2Fx",
        "model.1.w=2Fx",
    ]
