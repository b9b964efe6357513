"""No damage is silent: after any damage to any file, a restore gives the right bits of a committed step, or stops.

tests/faults/test_damage.py damages every file in every way, hundreds of times.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from halcyon.checkpoint import Restored, list_checkpoints
from halcyon.checkpoint.verify import encode_commit, find_damage
from halcyon.host.errors import NoValidCheckpoint
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import DamagedDocument, decode_head
from tests.trainer.checkpoint.helpers import Root, fill, open_root, restore_newest, restore_right, snapshot_of

pytestmark = pytest.mark.slow


def restore(root: Root) -> Restored:
    with open_root(root) as checkpointer:
        return restore_right(checkpointer)


def put_back(root: Root, files: dict[str, bytes]) -> None:
    """Restore the files of a root to their former content."""
    for path in root.files():
        name = str(path.relative_to(root.folder))
        if name not in files:
            path.unlink()
        elif path.read_bytes() != files[name]:
            path.write_bytes(files[name])
    for name, data in files.items():
        if not (root.folder / name).exists():
            (root.folder / name).write_bytes(data)


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def kind(path: Path) -> str:
    if path.parent.name == "heads":
        return "copy of HEAD"
    return "chunk" if "/c" in str(path).split("/data/")[-1] and "/data/" in str(path) else path.name


def test_a_flipped_bit_anywhere_is_never_silent(file_root: Root) -> None:
    fill(file_root, 1, 2)
    files = snapshot_of(file_root.folder)
    chance = random.Random(7)
    newest = list_checkpoints(file_root.spec).committed[0].path
    kinds: dict[str, list[Path]] = {}
    for path in file_root.files():
        if path.stat().st_size:
            kinds.setdefault(kind(path), []).append(path)
    assert set(kinds) == {"HEAD", "copy of HEAD", "PROBE", "MANIFEST.json", "COMMIT", "zarr.json", "chunk"}
    fell_back = 0
    for paths in kinds.values():
        for _ in range(6):
            path = chance.choice(paths)
            flip(path, chance.randrange(8 * path.stat().st_size))
            damaged = newest in str(path)
            restored = restore(file_root)
            assert restored.step == (1 if damaged else 2)
            assert [bad.path for bad in restored.skipped] == ([newest] if damaged else [])
            fell_back += damaged
            put_back(file_root, files)
    assert fell_back > 0


def test_a_flipped_bit_anywhere_in_head_is_detected(file_root: Root) -> None:
    fill(file_root, 1)
    good = (file_root.folder / "HEAD").read_bytes()
    head = decode_head(good)
    for bit in range(8 * len(good)):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedDocument):
            decode_head(bytes(data))
    assert decode_head(good) == head


def test_a_manifest_that_was_rewritten_together_with_its_mark_is_detected(file_root: Root) -> None:
    fill(file_root, 1, 2)
    entry = list_checkpoints(file_root.spec).committed[0]
    manifest = file_root.folder / entry.path / "MANIFEST.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"seed":1', b'"seed":2'))
    (manifest.parent / "COMMIT").write_bytes(encode_commit(manifest.read_bytes(), entry.epoch))
    restored = restore(file_root)
    assert restored.step == 1
    assert restored.skipped[0].reason == "MANIFEST.json does not have the hash that HEAD names"


def test_the_fallback_is_recorded_and_nothing_is_deleted(root: Root) -> None:
    fill(root, 10, 20)
    chunk = root.folder / root.head["committed"][0]["path"] / "data/weight/c/1/0"
    flip(chunk, 77)
    before = {name for name in snapshot_of(root.folder) if name.startswith("steps/")}
    restored = restore(root)
    assert restored.step == 10
    assert [(bad.step, bad.reason) for bad in restored.skipped] == [
        (20, "data/weight/c/1/0 does not have the hash that the manifest names")
    ]
    assert [bad["step"] for bad in root.head["bad"]] == [20]
    assert [entry["step"] for entry in root.head["committed"]] == [10]
    fill(root, 15, 20, 25)
    assert [entry["step"] for entry in root.head["committed"]] == [25, 20]
    kept = {name for name in snapshot_of(root.folder) if name.startswith(root.head["bad"][0]["path"])}
    assert kept == {name for name in before if name.startswith(root.head["bad"][0]["path"])}
    assert list_checkpoints(root.spec).bad[0].step == 20


def test_a_restore_stops_and_changes_nothing_if_all_checkpoints_are_damaged(root: Root) -> None:
    fill(root, 10, 20)
    for entry in root.head["committed"]:
        flip(root.folder / entry["path"] / "data/half/c/0/0", 5)
    before = {name: data for name, data in snapshot_of(root.folder).items() if name.startswith("steps/")}
    sentence = r"none of the 2 checkpoints in .* verifies \(step 20: data/half/c/0/0 does not have the hash"
    for _ in range(2):
        with open_root(root, expected_step=20) as checkpointer, pytest.raises(NoValidCheckpoint, match=sentence):
            restore_newest(checkpointer)
        assert [entry["step"] for entry in root.head["committed"]] == [20, 10]
    assert before == {name: data for name, data in snapshot_of(root.folder).items() if name.startswith("steps/")}
    assert [len(find_damage(Store(root.spec), entry)) for entry in list_checkpoints(root.spec).committed] == [1, 1]


def _empty(data: bytes) -> bytes:
    return b"" if data else data


@pytest.mark.parametrize("damage", [None, _empty, lambda data: data[:-1], lambda data: data.replace(b"20", b"30")])
def test_head_is_rebuilt_from_the_checkpoints(root: Root, damage: Callable[[bytes], bytes] | None) -> None:
    fill(root, 10, 20)
    head = root.folder / "HEAD"
    good = head.read_bytes()
    if damage is None:
        head.unlink()
    else:
        head.write_bytes(damage(good))
    assert [entry.step for entry in list_checkpoints(root.spec).committed] == [20, 10]
    assert list_checkpoints(root.spec).head_damage is not None
    with open_root(root, expected_step=20) as checkpointer:
        assert checkpointer.head_loss is not None
        restored = restore_right(checkpointer)
    assert restored.step == 20
    assert decode_head((root.folder / "HEAD").read_bytes()).committed == decode_head(good).committed
    kept = [path.read_bytes() for path in root.files() if "quarantine" in str(path)]
    assert kept == ([] if damage is None else [damage(good)])


def test_a_damaged_head_without_any_checkpoint_stops(root: Root) -> None:
    fill(root)
    (root.folder / "HEAD").write_bytes(b"{}")
    with pytest.raises(
        NoValidCheckpoint,
        match=r"HEAD does not carry the hash of its content in checkpoint root .* no committed checkpoint lies there",
    ):
        open_root(root)


def test_verification_reports_all_damage(file_root: Root) -> None:
    fill(file_root, 1)
    entry = list_checkpoints(file_root.spec).committed[0]
    data = file_root.folder / entry.path / "data"
    flip(data / "weight/c/0/0", 3)
    (data / "bias/c/0").unlink()
    (data / "step/zarr.json").write_bytes(b"{}")
    assert sorted(find_damage(Store(file_root.spec), entry)) == [
        "data/bias/c/0 is missing",
        f"data/step/zarr.json has 2 bytes instead of {_size(file_root, entry.path, 'step/zarr.json')}",
        "data/weight/c/0/0 does not have the hash that the manifest names",
    ]


def _size(root: Root, prefix: str, name: str) -> int:
    import json

    manifest = json.loads((root.folder / prefix / "MANIFEST.json").read_bytes())
    return next(file["sizeBytes"] for file in manifest["files"] if file["path"] == name)
