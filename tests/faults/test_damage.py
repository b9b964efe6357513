"""A restore finds damage to any file of a checkpoint, restores the previous checkpoint, and names the damage."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from halcyon.checkpoint import list_checkpoints
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import HEAD_KEY
from tests.faults import rows
from tests.faults.table import Trials
from tests.suite import promises
from tests.trainer.checkpoint.helpers import Root, fill, numbers, open_root, restore_newest, same_bits

pytestmark = rows.DAMAGE

OLDER, NEWER = 1, 2
Files = dict[str, bytes]


@dataclass(frozen=True)
class Harm:
    """Damage to a file: the new content by file name; None deletes the file. An exchange changes two files."""

    kind: str
    files: dict[str, bytes | None]


def flip(files: Files, name: str, chance: random.Random) -> Harm:
    data = bytearray(files[name])
    bit = chance.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    return Harm("flipped bits", {name: bytes(data)})


def cut(files: Files, name: str, chance: random.Random) -> Harm:
    return Harm("truncated files", {name: files[name][: chance.randrange(len(files[name]))]})


def lose(files: Files, name: str, chance: random.Random) -> Harm:
    return Harm("missing files", {name: None})


def exchange(files: Files, name: str, chance: random.Random) -> Harm:
    """Exchange with another file: mostly with one of the same length if there is one, because then only the hash
    differs.

    A file of the older checkpoint is copied and not exchanged, so that one valid checkpoint remains for the restore.
    """
    others = [other for other in files if files[other] != files[name]]
    alike = [other for other in others if len(files[other]) == len(files[name])]
    other = chance.choice(alike if alike and chance.random() < 0.8 else others)
    is_older = other.startswith(f"steps/{OLDER:012d}.")
    return Harm("exchanged files", {name: files[other]} | ({} if is_older else {other: files[name]}))


HARMS: tuple[Callable[[Files, str, random.Random], Harm], ...] = (flip, cut, lose, exchange)


@pytest.mark.parametrize(
    ("kind", "rounds"),
    [
        pytest.param("file", 1, marks=pytest.mark.slow),
        pytest.param("s3", 1, marks=[pytest.mark.slow, pytest.mark.variant]),
        pytest.param("file", 8, marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param("s3", 2, marks=[pytest.mark.slow, pytest.mark.long]),
    ],
)
@promises.HASHED
def test_every_kind_of_damage_to_every_file_of_a_checkpoint_is_detected(
    request: pytest.FixtureRequest, trials: Trials, kind: str, rounds: int
) -> None:
    root: Root = request.getfixturevalue(f"{kind}_root")
    fill(root, OLDER, NEWER)
    newest, older = (entry.path for entry in list_checkpoints(root.spec).committed)
    store = Store(root.spec)
    good = {key: data for key in store.list("") if (data := store.read(key).data)}
    files = {key: data for key, data in good.items() if key.startswith("steps/") or key == HEAD_KEY}
    victims = [key for key in files if not key.startswith(older)]
    assert {key.rpartition("/")[2] for key in victims} >= {"HEAD", "COMMIT", "MANIFEST.json", "zarr.json", "c", "0"}
    chance = random.Random(rounds)
    done: Counter[str] = Counter()
    for _, harm, victim in itertools.product(range(rounds), HARMS, victims):
        harmed = harm(files, victim, chance)
        write(store, harmed.files)
        touched = set(harmed.files)
        with open_root(root) as checkpointer:
            restored = restore_newest(checkpointer)
            head_loss = checkpointer.head_loss
        what = f"{harmed.kind}: {sorted(touched)}"
        assert restored is not None, what
        assert same_bits(restored.state, numbers(restored.step)), f"silently wrong: {what}"
        assert (head_loss is not None) == (HEAD_KEY in touched), what
        if any(key.startswith(newest) for key in touched):
            assert restored.step == OLDER, f"not found: {what}"
            # If HEAD is lost too, it is rebuilt only from the checkpoints whose MANIFEST and COMMIT agree.
            named = [bad.path for bad in restored.skipped]
            assert named == [newest] or (HEAD_KEY in touched and named == []), what
        else:
            assert restored.step == NEWER, what
        done[harmed.kind] += 1
        put_back(store, good)
    for name, number in done.items():
        trials.count(name, number)
    trials.count("files harmed, each in every way", len(victims))


def write(store: Store, files: dict[str, bytes | None]) -> None:
    """Write or delete files directly, as any user with access to the store could."""
    for key, data in files.items():
        if data is None:
            store.delete(key)
        else:
            store.write(key, data)


def put_back(store: Store, good: Files) -> None:
    """Restore the files of the root to their good content."""
    present = {key: store.read(key).data for key in store.list("")}
    write(store, {key: None for key in present if key not in good})
    write(store, {key: data for key, data in good.items() if present.get(key) != data})
