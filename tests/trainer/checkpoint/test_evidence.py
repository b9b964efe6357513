"""Each committed checkpoint adds a link that names the one before, and nothing in the chain can be changed unseen."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from halcyon.checkpoint.evidence import Chain, StepNumbers, hash_of, key_of, read_chain
from halcyon.checkpoint.opening import committed_steps, load_head
from halcyon.checkpoint.rollback import Return
from halcyon.commands.copy_checkpoint import copy_checkpoint
from halcyon.host.storage.store import Store
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.trainer.checkpoint.helpers import Root, open_root, restore_newest, save_step, with_keep
from tests.trainer.checkpoint.test_commands import run
from tests.trainer.telemetry.history.rows import Recorder, group, row

pytestmark = pytest.mark.slow


def loss(step: int) -> float:
    return 1.0 / step


def train(root: Root, *saves: int, known: StepNumbers | None = None, back_from: int | None = None) -> None:
    """Steps up to the last save, from the newest checkpoint on; after a return if there is one."""
    known = StepNumbers() if known is None else known
    with open_root(root, hardware="4 x test") as checkpointer:
        restored = restore_newest(checkpointer)
        if back_from is not None:
            checkpointer.go_back(Return(back_from, "jump", by_step=lambda step: True))
            restored = restore_newest(checkpointer)
        first = 0 if restored is None else restored.step
        for step in range(first + 1, max(saves) + 1):
            known.add(step, loss(step), 0.5)
            if step in saves:
                save_step(checkpointer, step, None, known)
        checkpointer.finish()


def chain(root: Root) -> Chain:
    store = Store(root.spec)
    return read_chain(store, committed_steps(store))


def test_the_chain_reaches_from_the_newest_checkpoint_to_the_beginning(file_root: Root) -> None:
    root = with_keep(file_root, 1)
    train(root, 3, 5, 9)
    found = chain(root)
    assert [(link.step, link.steps, link.hardware) for link in found.links] == [
        (9, 4, "4 x test"),
        (5, 2, "4 x test"),
        (3, 3, "4 x test"),
    ]
    assert (found.damages, found.others) == ((), 0), "links of deleted checkpoints stay"
    assert [link.previous for link in found.links] == [*map(hash_of, found.links[1:]), None]
    train(root, 12)
    assert [link.step for link in chain(root).links] == [12, 9, 5, 3], "a restart goes on with the chain"


def test_the_numbers_decide_the_link(file_root: Root, tmp_path: Path) -> None:
    same, other = (Root(CheckpointSpec(root=f"file://{tmp_path / name}"), tmp_path / name, {}) for name in ("a", "b"))
    train(file_root, 3)
    train(same, 3)
    known = StepNumbers()
    known.add(2, 0.25, 0.5)
    with open_root(other, hardware="4 x test") as checkpointer:
        restore_newest(checkpointer)
        for step in (1, 2, 3):
            known.add(step, loss(step) + (1e-7 if step == 2 else 0.0), 0.5)
        save_step(checkpointer, 3, None, known)
        checkpointer.finish()
    (first,), (again,), (differs,) = (chain(root).links for root in (file_root, same, other))
    assert (first.numbers, first.state) == (again.numbers, again.state)
    assert first.numbers != differs.numbers, "one bit of one loss"
    assert first.state == differs.state


def test_a_return_begins_a_branch(file_root: Root) -> None:
    train(file_root, 4, 8, 12)
    given_up = hash_of(chain(file_root).links[0])
    train(file_root, 12, 16, back_from=11)
    found = chain(file_root)
    assert [link.step for link in found.links] == [16, 12, 8, 4]
    assert (found.damages, found.others) == ((), 1)
    assert given_up not in map(hash_of, found.links)


def test_a_rebuilt_head_names_the_same_links(file_root: Root) -> None:
    train(file_root, 3, 6)
    before = chain(file_root)
    (file_root.folder / "HEAD").unlink()
    head, _ = load_head(Store(file_root.spec))
    assert head is not None
    assert read_chain(Store(file_root.spec), head.committed) == before


def test_a_copy_has_the_chain(file_root: Root, tmp_path: Path) -> None:
    train(file_root, 3, 6, 9)
    store, to = Store(file_root.spec), Store(CheckpointSpec(root=f"file://{tmp_path / 'copy'}"))
    copy_checkpoint(store, committed_steps(store)[1], to)
    found = read_chain(to, committed_steps(to))
    assert ([link.step for link in found.links], found.damages) == ([6, 3], ())


def test_every_change_of_the_history_is_found(file_root: Root) -> None:
    train(file_root, 3, 6, 9, 12)
    folder = file_root.folder / "evidence"
    files = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    noise = random.Random(5)
    for turn in range(200):
        path = noise.choice(list(files))
        match turn % 4:
            case 0:
                path.unlink()
            case 1:
                document = json.loads(files[path])
                document["numbers"] = document["numbers"][::-1]
                path.write_text(json.dumps(document, sort_keys=True, separators=(",", ":")))
            case 2:
                data = bytearray(files[path])
                data[noise.randrange(len(data))] ^= 1 << noise.randrange(8)
                path.write_bytes(data)
            case _:
                other = noise.choice([one for one in files if one != path])
                path.write_bytes(files[other])
        assert chain(file_root).damages, f"turn {turn}: {path.name}"
        path.write_bytes(files[path])
    assert chain(file_root).damages == ()


def test_verify_shows_the_chain(file_root: Root) -> None:
    train(file_root, 3, 6)
    absent = run(file_root, "verify")
    assert absent.exit_code == 1
    assert "the history lacks 3 steps (4 to 6), which the link of step 6 covers" in absent.output
    Recorder(file_root.spec, group(1)).flush([row(step, loss(step), gradientNorm=0.5) for step in range(1, 7)])
    intact = run(file_root, "verify")
    assert intact.exit_code == 0
    assert "not read: 1 other checkpoint; --all reads them too" in intact.output
    assert "evidence: 2 links for steps 1 to 6, each names the one before" in intact.output
    (file_root.folder / key_of(committed_steps(Store(file_root.spec))[1].path)).write_text("{}")
    damaged = run(file_root, "verify")
    assert damaged.exit_code == 1
    assert "the link of step 3" in damaged.output
