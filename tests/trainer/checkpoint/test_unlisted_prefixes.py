"""Unknown prefixes in a root are found without listing the keys of known checkpoints, and a long list is shown in
pages.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from halcyon.checkpoint import list_checkpoints
from halcyon.checkpoint.collect import garbage, unlisted_prefixes
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import step_prefix
from tests.trainer.checkpoint.helpers import Root, fill, with_keep
from tests.trainer.checkpoint.test_commands import run, words_of


def stray(root: Root, *steps: int) -> list[str]:
    """Write a part of a checkpoint of each of these steps; returns the prefixes."""
    store = Store(root.spec)
    paths = [step_prefix(step, 1, "stray-1") for step in steps]
    for path in paths:
        store.write(f"{path}data/x/c/0", b"x")
        store.write(f"{path}data/x/c/1", b"x")
    return paths


def test_unknown_prefixes_before_between_and_after_known_ones_are_found(root: Root) -> None:
    fill(with_keep(root, 4), 10, 20, 30)
    paths = stray(root, 1, 15, 20, 25, 99)
    store = Store(root.spec)
    known = list_checkpoints(root.spec).committed
    assert unlisted_prefixes(store, known) == tuple(paths)
    assert unlisted_prefixes(store, []) == tuple(sorted([*paths, *(entry.path for entry in known)]))
    assert [one.path for one in garbage(store)] == paths
    assert list_checkpoints(root.spec).unfinished == tuple(paths)


def test_no_key_of_a_known_checkpoint_is_listed(s3_root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(with_keep(s3_root, 4), 10, 20)
    paths = stray(s3_root, 15)
    list_between, listed = Store.list_between, []

    def recording(store: Store, ranges: Any) -> list[str]:
        listed.extend(list_between(store, ranges))
        return listed

    known = list_checkpoints(s3_root.spec).committed
    monkeypatch.setattr(Store, "list_between", recording)
    monkeypatch.delattr(Store, "list")
    assert unlisted_prefixes(Store(s3_root.spec), known) == tuple(paths)
    assert listed == [f"{paths[0]}data/x/c/{number}" for number in range(2)]


def test_a_long_list_is_read_in_pages(root: Root) -> None:
    fill(with_keep(root, 9), 10, 20, 30, 40, 50)
    paths = stray(root, 5, 25, 45)
    seen: list[tuple[list[int], tuple[str, ...], int]] = []
    before = None
    while True:
        page = list_checkpoints(root.spec, limit=2, before=before)
        seen.append(([entry.step for entry in page.committed], page.unfinished, page.older))
        if not page.older:
            break
        before = page.committed[-1].step
    assert seen == [([50, 40], (paths[2],), 3), ([30, 20], (paths[1],), 1), ([10], (paths[0],), 0)]


def test_list_shows_a_page_and_how_to_show_the_next_one(file_root: Root) -> None:
    fill(with_keep(file_root, 9), 10, 20, 30)
    first = run(file_root, "list", "--limit", "2")
    assert [row[0] for row in words_of(first) if row and row[0].isdigit()] == ["30", "20", "1"]
    assert "1 older ones: --before 20" in first.stdout
    rest = run(file_root, "list", "--before", "20")
    assert [row[0] for row in words_of(rest) if row and row[0].isdigit()] == ["10"]
    assert "newest" not in rest.stdout
    assert len(json.loads(run(file_root, "list", "--json").stdout)["head"]["committed"]) == 3
