"""Wrong input and damaged files end the trainer with one sentence and the right exit code, and nothing is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halcyon_api.checkpoint_documents import decode_head
from halcyon_api.ends import ExitCode
from tests.trainer.support.process_groups import run_document, start_processes

pytestmark = pytest.mark.slow

Document = dict[str, Any]


def train(document: Document, directory: Path, **options: Any) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    """Run one process to its end; returns exit code, termination report and events."""
    group = start_processes(document, directory, **options)
    try:
        (code,) = group.wait()
        return code, group.leader.report(), group.leader.events
    finally:
        group.reap()


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``place`` with a corpus and a root with checkpoints at steps 5 and 10, and ``copy``, a copy of it."""
    folder = tmp_path_factory.mktemp("pristine")
    place = folder / "place"
    code, _, _ = train(run_document(place / "root", slices=1, steps=10), place / "first")
    assert code == ExitCode.DONE
    shutil.copytree(place, folder / "copy")
    return folder


@pytest.fixture
def place(pristine: Path) -> Path:
    """The folder as it was after the training, at the path that the document names."""
    shutil.rmtree(pristine / "place")
    shutil.copytree(pristine / "copy", pristine / "place")
    return pristine / "place"


@pytest.fixture
def trained(place: Path) -> Document:
    """The document of the run whose checkpoints are in ``place``."""
    return run_document(place / "root", slices=1, steps=10)


def changed(document: Document, section: str, **values: Any) -> Document:
    spec = document["spec"]
    return {**document, "spec": {**spec, section: {**spec[section], **values}}}


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def some_numbers(root: Path, step: int) -> Path:
    """The largest file of a checkpoint: a chunk of an array."""
    files = (path for path in root.glob(f"steps/{step:012d}.*/data/**/*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("shared_cache", [False, pytest.param(True, marks=pytest.mark.variant)])
def test_both_fixes_for_a_changed_file_work(tmp_path: Path, shared_cache: bool) -> None:
    """The sentence names two ways out; the test tries each of them."""
    document = run_document(tmp_path / "root", slices=1, steps=10)
    if shared_cache:
        document = changed(document, "data", cache={"root": f"file://{tmp_path}/cache"})
    assert train(document, tmp_path / "first")[0] == ExitCode.DONE
    text = tmp_path / "corpus/0.txt"
    before = text.read_text()
    text.write_text("something else altogether\n" * 50)
    code, report, _ = train(document, tmp_path / "second", attempt=2)
    assert code == ExitCode.BAD_CONFIGURATION
    begin = "begin again with halcyon train --fresh, or train the change as a branch: "
    if shared_cache:
        begin = "give the changed run a spec.data.cache.root and spec.checkpoint.root of its own"
    assert f"; set it back to go on, or {begin}" in report["message"]

    anew = changed(document, "checkpoint", root=f"file://{tmp_path}/other")
    if shared_cache:
        anew = changed(anew, "data", cache={"root": f"file://{tmp_path}/other-cache"})
    assert train(anew, tmp_path / "anew")[0] == ExitCode.DONE
    text.write_text(before)
    assert train(document, tmp_path / "back", attempt=3)[0] == ExitCode.DONE


def test_a_changed_data_set_is_refused_by_the_checkpoint_too(trained: Document, place: Path) -> None:
    """If the token cache was deleted, a new one is built; but the checkpoint records the data that it was trained
    on.
    """
    before = (place / "root/HEAD").read_bytes()
    (place / "corpus/0.txt").write_text("something else altogether\n" * 50)
    shutil.rmtree(place / "root/data")
    code, report, _ = train(trained, place / "group", attempt=2)
    assert code == ExitCode.RUN_CHANGED
    assert "data" in report["message"]
    assert decode_head((place / "root/HEAD").read_bytes()).committed == decode_head(before).committed


def test_a_deleted_token_cache_is_built_again_and_the_run_continues(trained: Document, place: Path) -> None:
    shutil.rmtree(place / "root/data")
    code, _, events = train(trained, place / "group", attempt=2)
    assert code == ExitCode.DONE
    assert [event["finished"] for event in events if event["event"] == "tokenized"][-1]
    assert [event["step"] for event in events if event["event"] == "restored"] == [10]


def damage_all(root: Path) -> None:
    for step in (5, 10):
        flip_a_bit(some_numbers(root, step))


def remove_all(root: Path) -> None:
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize("fault", [damage_all, remove_all])
def test_a_run_without_a_valid_checkpoint_never_starts_again_from_step_0(
    trained: Document, place: Path, fault: Callable[[Path], None]
) -> None:
    fault(place / "root")
    code, report, events = train(trained, place / "group", attempt=2, resume_step=10)
    assert code == ExitCode.NO_VALID_CHECKPOINT
    assert report["cause"] == "noValidCheckpoint"
    assert not any(event["event"] == "step" for event in events)
