"""SIGKILL at any moment of restore, save, commit and deletion: what HEAD names is always whole and always right."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from halcyon.checkpoint import list_checkpoints, verify_checkpoint
from tests.trainer.checkpoint.helpers import Root, fill
from tests.trainer.checkpoint.processes import Child

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("kind", "kills"), [("file", 30), ("s3", 20), pytest.param("file", 500, marks=pytest.mark.long)])
def test_sigkill_at_random_moments(request: pytest.FixtureRequest, kind: str, kills: int) -> None:
    root: Root = request.getfixturevalue(f"{kind}_root")
    chance = random.Random(kills)
    newest = done = 0
    moments: set[str] = set()
    with Child("spawner", root, play="train", steps=10**9) as spawner:
        assert spawner.popen.stdin is not None
        while done < kills or (moments != {"deleting", "saving"} and done < 8 * kills):  # until kills fell into both
            done += 1
            spawner.popen.stdin.write("go\n")
            spawner.popen.stdin.flush()
            pid = spawner.hear("started")["pid"]
            if chance.random() < 0.7:
                restored = spawner.hear("restored", "crashed")
                assert restored["event"] == "restored", restored
                assert restored["right"], "the bits of another step"
                assert restored["skipped"] == 0
                assert restored["step"] == newest
            time.sleep(chance.random() * 0.5)  # a random moment is what this is about
            os.kill(pid, signal.SIGKILL)
            assert spawner.hear("over")["code"] == -signal.SIGKILL

            heard = [event for event in spawner.events if event["event"] in ("restored", "committed", "failed")]
            assert not [event for event in heard if event["event"] == "failed"]
            listing = list_checkpoints(root.spec)
            assert listing.head_damage is None, (root.folder / "HEAD").read_bytes()
            committed = [entry.step for entry in listing.committed]
            assert committed == sorted(committed, reverse=True)
            for entry in listing.committed:
                assert verify_checkpoint(root.spec, entry) == ()
            known = max([newest, *(event["step"] for event in heard if event["event"] == "committed")])
            newest = committed[0] if committed else 0
            assert known <= newest <= known + 1, "a committed step was lost, or one appeared from nowhere"
            moments |= {"deleting"} if listing.head and listing.head.deleting else set()
            moments |= {"saving"} if listing.unfinished else set()
    assert newest > done // 2
    fill(root, newest + 1)
    assert sorted(path.name for path in (root.folder / "steps").iterdir()) == sorted(
        Path(entry["path"]).name for entry in root.head["committed"]
    )
    assert moments == {"deleting", "saving"}, "no kill fell into these"


@pytest.mark.parametrize("kills", [150, pytest.param(2000, marks=pytest.mark.long)])
def test_sigkill_in_the_middle_of_a_swap(file_root: Root, kills: int) -> None:
    """A value is the old one or the new one, and the next writer is not harmed by what the killed one left."""
    chance = random.Random(3)
    with Child("spawner", file_root, play="swap") as spawner:
        assert spawner.popen.stdin is not None
        for _ in range(kills):
            spawner.popen.stdin.write("go\n")
            spawner.popen.stdin.flush()
            pid = spawner.hear("swapping", "crashed")["pid"]
            time.sleep(chance.random() * 0.02)
            os.kill(pid, signal.SIGKILL)
            assert spawner.hear("over")["code"] == -signal.SIGKILL
            if not (file_root.folder / "value").exists():
                continue  # killed before the first
            value = (file_root.folder / "value").read_bytes()
            assert hashlib.sha256(value[32:]).digest() == value[:32]
    assert len(list(file_root.folder.iterdir())) <= 3, "the value, LOCK, and what the last killed one left"
