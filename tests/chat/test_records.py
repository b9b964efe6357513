"""The folder of a chain: what it keeps, and what it never deletes."""

from __future__ import annotations

from pathlib import Path

import pytest

from halcyon_chat.chain import Broken, Stage, partial
from halcyon_chat.records import Folder, Record, read_chain


def stage(folder: Path, name: str = "one", *, result: bool = False) -> Stage:
    return Stage(name, ("eval",), "key", {"spec": {}}, folder / "results" / name if result else None)


def test_a_record_is_there_after_the_results(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "chain")
    tasks = stage(folder.path, result=True)
    with folder.held():
        folder.prepare(tasks)
        assert tasks.result is not None
        partial(tasks.result).mkdir()
        (partial(tasks.result) / "results.json").write_text(
            '{"tasks": [{"task": "bee", "accuracy": 0.5, "standardError": 0.125}]}'
        )
        assert folder.records() == {}
        assert folder.results(tasks) == "bee 0.500 ± 0.125"
        folder.keep(tasks, 1.25, "came")
    assert Folder(folder.path).records() == {"one": Record("key", 1.2, "came")}
    assert (tasks.result / "results.json").exists()


def test_results_that_are_not_complete_are_deleted(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    tasks = stage(tmp_path, result=True)
    assert tasks.result is not None
    partial(tasks.result).mkdir(parents=True)
    folder.prepare(tasks)
    assert not partial(tasks.result).exists()
    assert (tmp_path / "documents" / "one.yaml").read_text() == "spec: {}\n"


def test_a_record_that_cannot_be_read_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "one.json").write_text('{"key": "k"')
    (tmp_path / "done" / "two.json").write_text("[]")
    assert Folder(tmp_path).records() == {}


def test_only_one_chain_at_a_time(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "chain")
    with folder.held(), pytest.raises(Broken, match="another `make chat` works in"), Folder(folder.path).held():
        pass
    with folder.held():
        pass


def test_a_folder_of_something_else_is_never_cleared(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(Broken, match="has files of something else; give another --folder"), Folder(tmp_path).held():
        Folder(tmp_path).clear()
    assert (tmp_path / "mine.txt").exists()


def test_clearing_deletes_all_but_the_mark_and_follows_no_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    folder = Folder(tmp_path / "chain")
    with folder.held():
        (folder.path / "done").mkdir()
        (folder.path / "link").symlink_to(elsewhere)
        folder.clear()
        assert [path.name for path in folder.path.iterdir()] == [".halcyon-chat"]
    assert (elsewhere / "kept").exists()


def test_a_path_that_no_document_can_name_is_rejected() -> None:
    with pytest.raises(Broken, match="give --folder with letters"):
        Folder(Path("/a folder/chain"))


def test_a_folder_without_runs_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(Broken, match="has no file with a TrainingRun"):
        read_chain(tmp_path)
    (tmp_path / "run.yaml").write_text("a: [")
    with pytest.raises(Broken, match="cannot be read"):
        read_chain(tmp_path)
