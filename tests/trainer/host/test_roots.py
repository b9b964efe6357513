"""`halcyon train --fresh` renames the folder of a root, and deletes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from halcyon.host.errors import BadConfiguration
from halcyon.host.roots import move_aside
from tests.trainer.data.cache.runs import jsonl, spec_of


def test_a_root_is_renamed_to_the_first_free_name(tmp_path: Path) -> None:
    spec = spec_of(f"file://{tmp_path}/root", [jsonl(tmp_path / "c.jsonl")])
    assert move_aside(spec, tmp_path / "run.yaml") is None
    for number in (1, 2):
        (tmp_path / "root" / "data").mkdir(parents=True)
        (tmp_path / "root" / "HEAD").write_text(str(number))
        assert move_aside(spec, tmp_path / "run.yaml") == tmp_path / f"root.old-{number}"
        assert (tmp_path / f"root.old-{number}" / "HEAD").read_text() == str(number)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(("corpus", "document"), [("root/c.jsonl", "run.yaml"), ("c.jsonl", "root/run.yaml")])
def test_a_folder_with_files_that_the_run_needs_stays(tmp_path: Path, corpus: str, document: str) -> None:
    spec = spec_of(f"file://{tmp_path}/root", [jsonl(tmp_path / corpus)])
    (tmp_path / "root" / "data").mkdir(parents=True)
    with pytest.raises(BadConfiguration, match=r"give spec\.checkpoint\.root a folder of its own"):
        move_aside(spec, tmp_path / document)


def test_only_a_training_begins_again(tmp_path: Path) -> None:
    spec = spec_of(f"file://{tmp_path}/root", [jsonl(tmp_path / "c.jsonl")], task="data")
    with pytest.raises(BadConfiguration, match=r"^--fresh: only a training begins again, and spec\.task is data"):
        move_aside(spec, tmp_path / "run.yaml")


def test_an_object_store_needs_another_root(tmp_path: Path) -> None:
    spec = spec_of("gs://bucket/root", [jsonl(tmp_path / "c.jsonl")])
    with pytest.raises(BadConfiguration, match=r"spec\.checkpoint\.root is gs://bucket/root; give the run a root of"):
        move_aside(spec, tmp_path / "run.yaml")
