"""Arrays kept beside a cache are read back unchanged, or the damage is reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from halcyon.data.cache import arrays
from halcyon.data.cache.arrays import load_arrays, store_arrays
from halcyon.host.errors import DamagedData
from halcyon.host.storage.store import Store
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.trainer.data.cache.runs import jsonl, spec_of, write_jsonl
from tests.trainer.support.datasets import open_dataset

ARRAYS = {
    "first": np.arange(1000, dtype=np.int64) * 7,
    "second": np.arange(333, dtype=np.uint32),
    "none": np.empty(0, np.int64),
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(arrays, "PART_BYTES", 256)
    return Store(CheckpointSpec(root=f"file://{tmp_path}/caches"))


@pytest.mark.parametrize("large_bytes", [0, 2**20])
def test_arrays_are_read_back_unchanged(store: Store, monkeypatch: pytest.MonkeyPatch, large_bytes: int) -> None:
    monkeypatch.setattr(arrays, "LARGE_BYTES", large_bytes)
    assert load_arrays(store, "web/layouts/a/") is None
    store_arrays(store, "web/layouts/a/", ARRAYS)
    assert len(store.list("web/layouts/a/")) > 30, "in parts"
    found = load_arrays(store, "web/layouts/a/")
    assert found is not None
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert np.array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@pytest.mark.parametrize("key", ["first.000002", "INDEX.json"])
@pytest.mark.parametrize("content", [b"", b"[1]", None])
def test_damaged_or_missing_files_are_reported(store: Store, key: str, content: bytes | None) -> None:
    store_arrays(store, "web/layouts/a/", ARRAYS)
    store.delete(f"web/layouts/a/{key}")
    if content is not None:
        store.write(f"web/layouts/a/{key}", content)
    elif key == "INDEX.json":
        assert load_arrays(store, "web/layouts/a/") is None, "it was never written"
        return
    with pytest.raises(
        DamagedData, match="web/layouts/a/ of the token cache is damaged; delete it, and it is made again"
    ):
        load_arrays(store, "web/layouts/a/")


def test_a_flipped_bit_is_reported(store: Store) -> None:
    store_arrays(store, "web/layouts/a/", ARRAYS)
    content = bytearray(store.read("web/layouts/a/second.000001").data or b"")
    content[10] ^= 4
    store.write("web/layouts/a/second.000001", bytes(content))
    with pytest.raises(DamagedData, match="is damaged; delete it"):
        load_arrays(store, "web/layouts/a/")


def test_an_index_without_all_parts_is_reported(store: Store) -> None:
    """Else the rest of the array would be what the memory held before."""
    store_arrays(store, "web/layouts/a/", ARRAYS)
    index = json.loads(store.read("web/layouts/a/INDEX.json").data or b"")
    for entry in index.values():
        entry["sha256"] = entry["sha256"][:-1]
    store.delete("web/layouts/a/INDEX.json")
    store.write("web/layouts/a/INDEX.json", json.dumps(index).encode())
    with pytest.raises(DamagedData, match="is damaged; delete it"):
        load_arrays(store, "web/layouts/a/")


@pytest.mark.parametrize("layout", [{"pack": {}}, {"bestFit": {}}])
def test_a_layout_is_made_once_and_is_the_same_from_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: dict[str, object]
) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", 300)
    spec = spec_of(f"file://{tmp_path}/root", [jsonl(corpus, layout=layout)], trainer__sequenceLength=128)
    first = open_dataset(spec)
    examples = [first.examples(first.train_rows(step)) for step in range(5)]
    monkeypatch.setattr(arrays, "LARGE_BYTES", 0)
    monkeypatch.setattr("halcyon.data.layout.packer.DocumentPacker.build", None)
    again = open_dataset(spec)
    for step, expected in enumerate(examples):
        found = again.examples(again.train_rows(step))
        assert np.array_equal(found.tokens, expected.tokens)
