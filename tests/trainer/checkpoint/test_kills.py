"""SIGKILL at any moment of restore, save, commit and deletion: what HEAD names is always whole and always right."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from halcyon.checkpoint import list_checkpoints, verify_checkpoint
from tests.trainer.checkpoint.helpers import Root
from tests.trainer.checkpoint.processes import Child

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("kind", "kills"), [("file", 60), ("s3", 25)])
def test_sigkill_at_random_moments(request: pytest.FixtureRequest, kind: str, kills: int) -> None:
    root: Root = request.getfixturevalue(f"{kind}_root")
    chance = random.Random(kills)
    newest = 0
    moments: set[str] = set()
    with Child("spawner", root, steps=10**9) as spawner:
        assert spawner.popen.stdin is not None
        for _ in range(kills):
            spawner.popen.stdin.write("go\n")
            spawner.popen.stdin.flush()
            pid = spawner.hear("started")["pid"]
            if chance.random() < 0.7:
                restored = spawner.hear("restored")
                assert restored["right"], "the bits of another step"
                assert restored["skipped"] == 0
                assert restored["step"] == newest
            time.sleep(chance.random() * 0.5)  # a random moment is what this is about
            os.kill(pid, signal.SIGKILL)
            assert spawner.hear("over")["code"] == -signal.SIGKILL

            heard = [event for event in spawner.events if event["event"] in ("restored", "committed", "failed")]
            assert not [event for event in heard if event["event"] == "failed"]
            listing = list_checkpoints(root.spec)
            assert listing.head_damage is None
            committed = [entry.step for entry in listing.committed]
            assert committed == sorted(committed, reverse=True)
            for entry in listing.committed:
                assert verify_checkpoint(root.spec, entry) == ()
            known = max([newest, *(event["step"] for event in heard if event["event"] == "committed")])
            newest = committed[0] if committed else 0
            assert known <= newest <= known + 1, "a committed step was lost, or one appeared from nowhere"
            moments |= {"deleting"} if listing.head and listing.head.deleting else set()
            moments |= {"saving"} if listing.unfinished else set()
    assert newest > kills // 2
    assert moments == {"deleting", "saving"}, "no kill fell into these"
