"""SIGKILL at any moment of a process: HEAD always names intact and correct checkpoints, and at the end the run is the
same.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon.checkpoint import list_checkpoints
from halcyon.checkpoint.verify import find_damage
from halcyon.host.storage.store import Store
from halcyon_api.ends import ExitCode
from tests.faults import rows
from tests.faults.child import FaultChild
from tests.faults.moments import MOMENTS, Moments
from tests.faults.table import Trials
from tests.suite import promises
from tests.suite.limits import limit
from tests.trainer.checkpoint.helpers import Root, fill
from tests.trainer.checkpoint.processes import Child
from tests.trainer.support.process_groups import TrainerProcesses, each_restart, run_document, start_processes

pytestmark = [pytest.mark.slow, rows.KILLS]


class Killer:
    """Kills at random moments: half of the kills at any time, the others during the activity that was hit least."""

    def __init__(self, path: Path, seed: int) -> None:
        self.moments = Moments(path)
        self.hit: Counter[str] = Counter(dict.fromkeys(MOMENTS, 0))
        self._chance = random.Random(seed)

    def wait(self, child: Child, *, seconds: float) -> None:
        """Wait for the moment of the next kill. Waits at most 5 s for the activity that it aims at."""
        if self._chance.random() < 0.5:
            time.sleep(self._chance.random() * seconds)  # the random moment of the kill
            return
        aim = min(MOMENTS, key=lambda moment: (self.hit[moment], self._chance.random()))
        deadline = time.monotonic() + limit(5)
        while self.moments.now() != aim and time.monotonic() < deadline:
            time.sleep(0.0002)
        time.sleep(self._chance.random() * self._chance.choice([0, 0.002, 0.02]))

    def wants_more(self, kills: int) -> bool:
        """Whether more kills are needed: fewer than `kills` so far, or none during an activity (a busy machine often
        misses short ones).
        """
        done = self.hit.total()
        return done < kills or (not all(self.hit.values()) and done < max(5 * kills, 100))

    def kill(self, pid: int, spawner: Child) -> None:
        """Kill a process of the spawner, and count the activity that was hit."""
        os.kill(pid, signal.SIGKILL)
        assert spawner.hear("over")["code"] == -signal.SIGKILL
        self.hit[self.moments.now()] += 1


@pytest.mark.parametrize(
    ("kind", "kills"),
    [
        ("file", 8),
        ("s3", 6),
        pytest.param("file", 30, marks=pytest.mark.variant),
        pytest.param("s3", 20, marks=pytest.mark.variant),
        pytest.param("azure", 12, marks=pytest.mark.variant),
        pytest.param("file", 700, marks=pytest.mark.long),
        pytest.param("s3", 300, marks=pytest.mark.long),
    ],
)
@promises.ATOMIC
def test_the_engine_killed_at_random_moments(
    request: pytest.FixtureRequest, tmp_path: Path, trials: Trials, kind: str, kills: int
) -> None:
    root: Root = request.getfixturevalue(f"{kind}_root")
    killer = Killer(tmp_path / "moments", kills)
    newest = 0
    with FaultChild("spawner", root, play="train", steps=10**9, moments=str(killer.moments.path)) as spawner:
        while killer.wants_more(kills):
            killer.moments.expect_start()
            spawner.tell("go")
            pid = spawner.hear("started")["pid"]
            killer.wait(spawner, seconds=1)
            killer.kill(pid, spawner)

            heard = [
                event for event in spawner.events if event["event"] in ("restored", "committed", "failed", "crashed")
            ]
            spawner.events.clear()
            assert not [event for event in heard if event["event"] in ("failed", "crashed")]
            for restored in (event for event in heard if event["event"] == "restored"):
                assert restored == {"event": "restored", "step": newest, "right": True, "skipped": 0}
            listing = list_checkpoints(root.spec)
            assert listing.head_damage is None, (root.folder / "HEAD").read_bytes()
            committed = [entry.step for entry in listing.committed]
            assert committed == sorted(committed, reverse=True)
            for entry in listing.committed:
                assert find_damage(Store(root.spec), entry) == ()
            known = max([newest, *(event["step"] for event in heard if event["event"] == "committed")])
            newest = committed[0] if committed else 0
            assert known <= newest <= known + 1, "a committed step was lost, or one appeared from nowhere"
    fill(root, newest + 1)
    kept = {key.split("/")[1] for key in Store(root.spec).list("steps/")}
    if root.folder.exists():
        kept = {path.name for path in (root.folder / "steps").iterdir()}
    assert kept == {Path(entry.path).name for entry in list_checkpoints(root.spec).committed}
    assert all(killer.hit.values()), f"no kill fell into one of these: {killer.hit}"
    for moment, number in killer.hit.items():
        trials.count(f"kills in {moment}", number)


WRITES = 27
"""Of a save: its files, MANIFEST, COMMIT, the copy of HEAD, and HEAD."""


@pytest.mark.parametrize("kind", ["file", pytest.param("s3", marks=pytest.mark.variant)])
def test_the_engine_killed_before_each_write_of_a_commit(
    request: pytest.FixtureRequest, trials: Trials, kind: str
) -> None:
    """A random kill seldom hits a short activity, so here the process kills itself before a write; the next one
    restores the last commit."""
    root: Root = request.getfixturevalue(f"{kind}_root")
    newest = 0
    for write in (WRITES, 0, *range(WRITES - 5, WRITES + 1)):
        with FaultChild("killed_at_a_write", root, write=write, devices=4) as child:
            assert child.end() == -signal.SIGKILL, child.noise()
        assert child.events == [{"event": "restored", "step": newest, "right": True}]
        newest += write == WRITES
        committed = list_checkpoints(root.spec).committed
        assert [entry.step for entry in committed] == list(range(newest, 0, -1))
        assert [find_damage(Store(root.spec), entry) for entry in committed] == [()] * newest
        trials.count("kills before a write of a save")


@pytest.mark.parametrize(
    "kills", [40, pytest.param(150, marks=pytest.mark.variant), pytest.param(2000, marks=pytest.mark.long)]
)
def test_the_engine_killed_in_the_middle_of_a_swap(file_root: Root, trials: Trials, kills: int) -> None:
    """A value is the old one or the new one, and the files that a killed writer leaves do not disturb the next
    writer.
    """
    chance = random.Random(3)
    with FaultChild("spawner", file_root, play="swap") as spawner:
        for _ in range(kills):
            spawner.tell("go")
            pid = spawner.hear("swapping", "crashed")["pid"]
            time.sleep(chance.random() * 0.02)
            os.kill(pid, signal.SIGKILL)
            assert spawner.hear("over")["code"] == -signal.SIGKILL
            if not (file_root.folder / "value").exists():
                continue  # killed before the first swap
            value = (file_root.folder / "value").read_bytes()
            assert hashlib.sha256(value[32:]).digest() == value[:32]
    assert len(list(file_root.folder.iterdir())) <= 3, "the value, LOCK, and a file of the last killed writer"
    trials.count("kills in compare-and-swaps of a folder", kills)


# `make test` kills a run of two processes.
@pytest.mark.parametrize(
    "kills",
    [*(pytest.param(kills, marks=pytest.mark.variant) for kills in (4, 8)), pytest.param(150, marks=pytest.mark.long)],
)
def test_a_training_killed_at_random_moments_is_bitwise_the_same_run(
    tmp_path: Path, file_root: Root, trials: Trials, kills: int
) -> None:
    """`halcyon train` of one process, each forked from a process that has done all imports.

    One to be killed never gets its last batch.
    """
    steps = (12 if kills < 8 else 60) + 12 * kills
    run, calm = tmp_path / "run.yaml", tmp_path / "calm.yaml"
    for path, root in ((run, file_root.folder), (calm, tmp_path / "calm-root")):
        document = run_document(root, slices=1, steps=steps)
        document["spec"]["checkpoint"]["save"] = {"everySteps": 3}
        if kills < 8:  # else a process killed while it tokenizes leaves a lock that the next one waits for
            document["spec"]["data"]["cache"] = {"root": f"file://{tmp_path / 'cache'}"}
        path.write_text(yaml.safe_dump(document))
    killer = Killer(tmp_path / "moments", kills)
    options: dict[str, Any] = {"moments": str(killer.moments.path), "compilation": str(tmp_path / "xla")}
    losses: dict[int, float] = {}
    committed = 0
    with FaultChild("trainers", file_root, **options) as trainer:
        trainer.tell(str(calm))
        assert trainer.hear("over")["code"] == ExitCode.DONE
        expected = losses_of(trainer)
        assert sorted(expected) == list(range(1, steps + 1))
        for kill in range(kills + 1):
            trainer.events.clear()
            killer.moments.expect_start()
            trainer.tell(f"{run} {steps - 1}" if kill < kills else str(run))
            pid = trainer.hear("forked")["pid"]
            if kill < kills:
                if kill % 4:  # every fourth kill may hit the start-up
                    assert trainer.hear("step", "over")["event"] == "step"
                killer.wait(trainer, seconds=0.5)
                killer.kill(pid, trainer)
            else:
                assert trainer.hear("over")["code"] == ExitCode.DONE
            for restored in (event for event in trainer.events if event["event"] == "restored"):
                assert committed <= restored["step"] <= committed + 3, (
                    "more than the steps since the last commit is lost"
                )
            for step, loss in losses_of(trainer).items():
                assert loss == expected[step], f"step {step}"
                losses[step] = loss
            assert not [
                event for event in trainer.events if event["event"] in ("fallback", "crashed", "checkpointFailed")
            ]
            committed = max([committed, *(event["step"] for event in trainer.events if event["event"] == "checkpoint")])
    assert losses == expected
    trials.count("kills of a training process", kills)


def losses_of(trainer: Child) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in trainer.events if event["event"] == "step"}


def seen_step(step: int) -> Any:
    return lambda events: any(event.get("event") == "step" and event["step"] >= step for event in events)


@pytest.mark.parametrize(
    "kills", [3, pytest.param(6, marks=pytest.mark.variant), pytest.param(100, marks=pytest.mark.long)]
)
def test_a_run_of_two_processes_killed_at_random_moments_is_bitwise_the_same(
    tmp_path: Path, trials: Trials, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    """Until the last kill one process never gets its last batch, so the run cannot end before a kill."""
    steps = max(2 * kills, 12)
    calm = start_processes(run_document(tmp_path / "calm-root", steps=steps), tmp_path / "calm")
    assert calm.wait() == [ExitCode.DONE] * 2
    expected = calm.leader.losses()
    assert sorted(expected) == list(range(1, steps + 1))
    run = run_document(tmp_path / "root", steps=steps)
    chance = random.Random(kills)
    losses: dict[int, float] = {}
    done = committed = 0
    monkeypatch.setenv("HANG", f"{steps - 1},1")
    for group in each_restart(run, tmp_path / "run", module="tests.trainer.support.trouble_child"):
        if done < kills:
            _kill_one_of_two(group, chance, done, min(committed + chance.randint(1, 8), steps - 1))
            done += 1
            if done == kills:
                monkeypatch.delenv("HANG")
        else:
            assert group.wait() == [ExitCode.DONE] * 2
        for step, loss in group.leader.losses().items():
            assert loss == expected[step], f"step {step}"
            losses[step] = loss
        committed = max(
            [committed, *(event["step"] for event in group.leader.events if event.get("event") == "checkpoint")]
        )
    assert done == kills
    assert losses == expected
    trials.count("kills of one of two training processes", kills)


def _kill_one_of_two(group: TrainerProcesses, chance: random.Random, number: int, step: int) -> None:
    """Kill between the start-up and a few steps after the next checkpoint: while joining, restoring, stepping, saving
    or committing.
    """
    if chance.random() < 0.75:
        group.leader.wait_for(seen_step(step))
    else:
        group.leader.wait_for(lambda events: any(event.get("event") == "start" for event in events))
    with contextlib.suppress(subprocess.TimeoutExpired):  # a random delay
        group.processes[number % 2].popen.wait(chance.random() * 0.2)
    victim, peer = group.processes[number % 2], group.processes[1 - number % 2]
    victim.popen.kill()
    assert victim.wait() == -signal.SIGKILL
    if not any(event.get("event") == "joined" for event in peer.events):
        # it may wait long for the other process to join; a JobSet deletes the pods of the old process group
        peer.popen.terminate()
    assert peer.wait() not in (0, *range(80, 87)), "the peer must exit with a code that is retried"
