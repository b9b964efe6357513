"""Two recoveries that meet, in each order, with a kill before any write: what has left HEAD never comes back, and at the
end the run has the state of an undisturbed run.

The trainings of this file are loops of a few steps in one process, on the real engine and a real folder. A kill is a
store that takes no further write of the killed process.
"""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from pydantic import ValidationError

from halcyon.checkpoint import Checkpointer
from halcyon.checkpoint.evidence import StepNumbers
from halcyon.checkpoint.head import edit, with_pin
from halcyon.checkpoint.opening import entry_of, load_head
from halcyon.checkpoint.rollback import Distrust, KeepsNewest, Return, batch_number, until
from halcyon.checkpoint.verify import encode_commit
from halcyon.commands.copy_checkpoint import copy_checkpoint
from halcyon.host.errors import BadConfiguration, Fenced, NoValidCheckpoint, TrainerExit
from halcyon.host.storage.failures import Abandoned, SaveFailed
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import (
    COMMIT_KEY,
    COPIES_PREFIX,
    HEAD_KEY,
    MANIFEST_KEY,
    CommittedStep,
    DamagedDocument,
    DataPosition,
    Head,
    Manifest,
    decode_head,
)
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.faults import rows
from tests.faults.table import Trials
from tests.trainer.checkpoint.helpers import (
    OWNER,
    Root,
    epoch,
    fill,
    mesh,
    open_root,
    position,
    snapshot_of,
    with_keep,
)

pytestmark = [rows.RECOVERIES, pytest.mark.slow]

STEPS, SAVES, AUDITS = 16, 2, 6
RECOVERIES = ("rebuild", "divergence", "wrong numbers", "damage", "older", "take-over", "elastic", "deletion")
PAIRS = tuple(itertools.product(RECOVERIES, RECOVERIES))
WRITES = 40
"""More than a short life of a process writes."""
Numbers = tuple[int, ...]
BEGINNING: Numbers = (0, 1, 0, 0)
"""Steps done, a hash of all batches, and whether a wrong device had a part in it."""


def after(state: Numbers, batch: int, *, wrong: bool = False) -> Numbers:
    """The state after one more step."""
    return state[0] + 1, (state[1] * 31 + batch + 7 + wrong) % 1_000_003, state[2] | wrong, 0


def is_by_step(step: int) -> bool:
    """Whether each run saves after this step."""
    return step % SAVES == 0 or step == STEPS


def undisturbed(diverging: frozenset[int]) -> Numbers:
    """The last state of a run in which nothing fails, and these batches diverge."""
    saved, state, skipped = {0: BEGINNING}, BEGINNING, ()
    while state[0] < STEPS:
        batch = batch_number(skipped, state[0])
        if batch not in diverging:
            state = after(state, batch)
            if is_by_step(state[0]):
                saved[state[0]] = state
            continue
        head = Head(
            owner=OWNER,
            epoch=epoch(1),
            committed=tuple(map(listed, sorted(saved, reverse=True))),
            skipped=skipped,
        )
        head = Return(state[0] + 1, "jump", by_step=is_by_step).applied(head)
        skipped, state = head.skipped, saved[head.committed[0].step]
    return state


def listed(step: int) -> CommittedStep:
    """An entry of HEAD without a checkpoint."""
    return CommittedStep(
        step=step,
        epoch=epoch(1),
        path=f"steps/{step}/",
        manifest_sha256="0" * 64,
        size_bytes=1,
        time="2026-01-01T00:00:00Z",
    )


@dataclass
class Life:
    """What may happen to the writes of a process."""

    writes_left: int | None = None
    """Writes until it is killed; None: it is not killed."""
    stop_before: int | None = None
    """The write before which it is stopped, and a newer process takes the root; None: never."""
    meanwhile: Callable[[], object] = lambda: None
    """What happens while it is stopped."""
    dead: bool = False


@dataclass
class Run:
    """A run whose processes are disturbed, and the changes of HEAD that it saw."""

    root: Root
    chance: random.Random
    diverging: frozenset[int]
    heads: list[Head] = field(default_factory=list)
    wanted: Head | None = None
    """The change of HEAD that was under way at the last kill, as the last copy has it."""
    damaged: set[str] = field(default_factory=set)
    faulty_from: int | None = None
    """The step from which on a device computes wrong numbers; None: no device does."""
    attempt: int = 0
    life: Life = field(default_factory=Life)
    done: Numbers | None = None
    log: list[str] = field(default_factory=list)

    @property
    def store(self) -> Store:
        """The root for a user, who is not killed."""
        store = Store(self.root.spec)
        store.life = Life()  # type: ignore[attr-defined]
        return store

    @property
    def left(self) -> frozenset[str]:
        """The prefixes that a HEAD has listed, and the last one does not."""
        ever = {entry.path for head in self.heads for entry in head.committed}
        return frozenset(ever - {entry.path for entry in self.heads[-1].committed}) if self.heads else frozenset()

    @property
    def story(self) -> str:
        """What happened, for the message of a failure."""
        return "\n".join(self.log)

    # The store

    def guard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count the writes of each process, end or stop it there, and remember each HEAD that was written."""
        run, made = self, Store.__init__

        def init(store: Store, *arguments: Any, **options: Any) -> None:
            made(store, *arguments, **options)
            store.life = run.life  # type: ignore[attr-defined]

        monkeypatch.setattr(Store, "__init__", init)
        for name in ("write", "swap", "delete", "delete_prefix"):
            original = getattr(Store, name)

            def guarded(store: Store, key: str, *arguments: Any, original: Any = original, name: str = name) -> Any:
                life: Life = store.life  # type: ignore[attr-defined]
                if life.stop_before == 0:
                    life.stop_before = None
                    life.meanwhile()
                if life.dead or life.writes_left == 0:
                    life.dead = True
                    raise Abandoned
                life.writes_left = None if life.writes_left is None else life.writes_left - 1
                life.stop_before = None if life.stop_before is None else life.stop_before - 1
                result = original(store, key, *arguments)
                if store.root != run.root.spec.root:
                    return result
                if name == "write" and key.startswith(COPIES_PREFIX):
                    copy = decode_head(arguments[0])
                    if not run.heads or copy.starts >= run.heads[-1].starts:
                        run.wanted = copy
                if name == "swap" and key == HEAD_KEY and result is not None:
                    run.heads.append(decode_head(arguments[0]))
                    run.wanted = None
                return result

            monkeypatch.setattr(Store, name, guarded)

    def lose_head(self) -> None:
        """Damage or delete HEAD, and sometimes its copies too."""
        store = self.store
        if not self.listed():
            return  # a run without a checkpoint has nothing from which to rebuild HEAD
        if self.chance.random() < 0.5:
            store.write(HEAD_KEY, self.chance.choice([b"x", b"{}", b""]))
        else:
            store.delete(HEAD_KEY)
        marks_are_complete = not any(self.counts(path) for path in self.prefixes() - self.listed())
        if marks_are_complete and self.chance.random() < 0.4:
            store.delete_prefix(COPIES_PREFIX)
            self.log.append("HEAD and its copies are lost")
        else:
            self.log.append("HEAD is lost")

    def prefixes(self) -> set[str]:
        """All prefixes on the disk."""
        return set(self.store.folders("steps/"))

    def listed(self) -> set[str]:
        """The prefixes that the last HEAD lists as committed."""
        return {entry.path for entry in self.heads[-1].committed} if self.heads else set()

    def counts(self, path: str) -> bool:
        """Whether MANIFEST and COMMIT of a prefix fit."""
        data, mark = (self.store.read(f"{path}{key}").data for key in (MANIFEST_KEY, COMMIT_KEY))
        try:
            return mark == encode_commit(data or b"", Manifest.model_validate_json(data or b"").epoch)
        except ValidationError:
            return False

    def damage(self) -> None:
        """Damage the newest checkpoint, unless it is the only one that is good or that an audit has confirmed."""
        head = self.heads[-1] if self.heads else None
        good = [entry for entry in head.committed if entry.path not in self.damaged] if head else []
        if len(good) < 2 or (self.faulty_from is not None and good[0].step <= (good[0].audited or 0)):
            return
        newest = self.root.folder / good[0].path
        kind = self.chance.choice(["data", "manifest", "mark"])
        if kind == "data":
            chunk = next((newest / "data").rglob("c/*"))
            chunk.write_bytes(chunk.read_bytes()[::-1])
        elif kind == "manifest":
            (newest / MANIFEST_KEY).write_bytes(b"{}")
        else:
            (newest / COMMIT_KEY).unlink()
        self.damaged.add(good[0].path)
        self.log.append(f"{good[0].path} is damaged")

    # One process

    def start(self, **of_life: Any) -> None:
        """Train in a new process, until the end, a kill, or an audit that ends it."""
        self.attempt += 1
        self.life = life = Life(**of_life)
        before = (self.heads[-1] if self.heads else None, self.wanted)
        devices = mesh(self.chance.choice([1, 2, 4]), 1)
        self.log.append(
            f"start {self.attempt}: {life.writes_left} writes, stopped before {life.stop_before}, faulty from "
            f"{self.faulty_from}"
        )
        failure = ""
        try:
            with suppress(Abandoned), open_root(self.root, epoch=epoch(self.attempt)) as checkpointer:
                self.train(checkpointer, devices, before)
        except (Fenced, SaveFailed, TrainerExit) as error:
            failure = f"{type(error).__name__}: {error}"
        self.log.append(failure or ("killed" if life.dead else "ended"))
        assert not failure or life.dead or "meanwhile" in of_life, self.story

    def train(self, checkpointer: Checkpointer, devices: Any, before: tuple[Head | None, Head | None]) -> None:
        """One process of the training."""
        sharding = NamedSharding(devices, PartitionSpec("fsdp"))
        template = {"x": jax.ShapeDtypeStruct((4,), np.int32, sharding=sharding)}
        assert self.left.isdisjoint(entry.path for entry in checkpointer.committed), f"it came back\n{self.story}"
        restored = checkpointer.restore(template)
        # The newest valid one of the last HEAD, or of the change that was under way.
        good = {newest_good(head, self.damaged, self.counts) for head in before if head is not None} or {None}
        found = None if restored is None else restored.checkpoint.path
        assert found in good, f"{found}, {good}\n{self.story}"
        state = BEGINNING if restored is None else numbers_of(restored.state)
        known = StepNumbers()
        newest = checkpointer.newest
        known.audited = 0 if newest is None else newest.step if newest.audited is None else newest.audited
        checkpointer.add_reader(KeepsNewest(lambda step: step <= (known.audited or 0), checkpointer.committed))
        checkpointer.add_reader(KeepsNewest(is_by_step, checkpointer.committed))
        while state[0] < STEPS:
            step, batch = state[0] + 1, batch_number(checkpointer.skipped, state[0])
            if batch in self.diverging:
                if checkpointer.go_back(Return(step, "jump", by_step=is_by_step)) is None:
                    return  # there is no checkpoint yet: such a run ends
                restored = checkpointer.restore(template)
                assert restored is not None
                state = numbers_of(restored.state)
                known.went_back(restored.step)
                continue
            is_wrong = self.faulty_from is not None and step >= self.faulty_from
            state = after(state, batch, wrong=is_wrong)
            known.add(step, 1.0, 1.0)
            if step % AUDITS == 0 or step == STEPS:
                if is_wrong:
                    checkpointer.go_back(Distrust(known.audited, "copies of the state differ"))
                    self.faulty_from = None  # the operator avoids the node
                    self.log.append(f"an audit found wrong numbers at step {step}")
                    return
                known.audited = step
            if is_wrong and self.faulty_from is not None:
                self.faulty_from = min(self.faulty_from, (known.audited or 0) + 1)  # also in the next process
            if is_by_step(step) or self.chance.random() < 0.1:
                array = jax.make_array_from_callback(
                    (4,), sharding, lambda at, state=state: np.array(state, np.int32)[at]
                )
                where = DataPosition(step=step, sequences=step, tokens=step, skipped=until(checkpointer.skipped, step))
                checkpointer.save(step, {"x": array}, where, None, known)
                if self.chance.random() < 0.5:
                    checkpointer.finish()
                if self.life.dead:
                    raise Abandoned
                if self.chance.random() < 0.05 and self.listed():
                    with suppress(DamagedDocument):  # HEAD was lost while this process was stopped
                        edit(self.store, lambda head: with_pin(head, head.committed[-1].path))
        checkpointer.finish()
        self.done = state

    def meet(self, recovery: str) -> None:
        """Disturb the run once, and start processes that may be killed."""
        killed = {"writes_left": self.chance.randrange(WRITES)}
        match recovery:
            case "rebuild":
                self.start(**killed)
                self.lose_head()
            case "wrong numbers":
                # Before the first audit no checkpoint is confirmed, so the oldest would stay.
                self.faulty_from = self.chance.randint(AUDITS + 1, STEPS)
                self.start(**killed)
                self.start()
            case "damage":
                self.start(**killed)
                self.damage()
            case "older":
                self.start(**killed)
                self.copy_an_older_one()
            case "take-over":

                def newer() -> None:
                    older = self.life
                    self.start(**killed)
                    if self.chance.random() < 0.3:
                        self.lose_head()
                    self.life = older

                self.start(stop_before=self.chance.randrange(WRITES), meanwhile=newer)
            case _:
                self.start(**killed)
        self.start(writes_left=self.chance.randrange(WRITES))

    def copy_an_older_one(self) -> None:
        """A listed checkpoint can be copied, and one that has left HEAD cannot."""
        store, head = self.store, self.heads[-1] if self.heads else None
        if head is None or store.read(HEAD_KEY).data is None:
            return
        good = [entry for entry in head.committed if entry.path not in self.damaged]
        if good:
            to = Store(CheckpointSpec(root=f"{self.root.spec.root}/older-{len(self.log)}"))
            to.life = Life()  # type: ignore[attr-defined]
            assert copy_checkpoint(store, entry_of(store, good[-1].step), to).committed == (good[-1],)
        for bad in head.bad:
            if bad.step not in {entry.step for entry in head.committed}:
                with pytest.raises(BadConfiguration, match=f"step {bad.step} any more"):
                    entry_of(store, bad.step)


def numbers_of(state: Any) -> Numbers:
    return tuple(int(number) for number in np.asarray(state["x"]))


def newest_good(head: Head | None, damaged: set[str], counts: Callable[[str], bool]) -> str | None:
    """The newest checkpoint of a HEAD that verifies."""
    entries = () if head is None else head.committed
    return next((entry.path for entry in entries if entry.path not in damaged and counts(entry.path)), None)


def meeting(root: Root, monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str], seed: int) -> Run:
    """Let two recoveries meet in a run, then train it to its end."""
    chance = random.Random(f"{pair} {seed}")
    diverging = frozenset(chance.sample(range(SAVES, STEPS), 2)) if "divergence" in pair else frozenset[int]()
    keep = 1 if "deletion" in pair else chance.choice([2, 4])
    run = Run(Root(root.spec.model_copy(update={"keep": keep}), root.folder), chance, diverging)
    with monkeypatch.context() as patched:
        run.guard(patched)
        for recovery in pair:
            run.log.append(recovery)
            run.meet(recovery)
        run.done = None
        for _ in range(3):
            if run.done is None:
                run.start()
        assert run.done == undisturbed(diverging), run.story
        assert run.left.isdisjoint(path for path in run.prefixes() if run.counts(path)), run.story
    return run


@pytest.mark.parametrize(
    ("draws", "seed"),
    [
        (12, 0),
        pytest.param(len(PAIRS), 1, marks=pytest.mark.variant),
        pytest.param(12 * len(PAIRS), 2, marks=pytest.mark.long),
    ],
)
def test_random_pairs_of_recoveries_end_with_the_state_of_an_undisturbed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: Trials, draws: int, seed: int
) -> None:
    drawn = random.Random(seed).sample(PAIRS, min(draws, len(PAIRS)))
    for number in range(draws):
        folder = tmp_path / str(number)
        meeting(Root(CheckpointSpec(root=f"file://{folder}"), folder), monkeypatch, drawn[number % len(drawn)], number)
        shutil.rmtree(folder)
        trials.count("pairs of recoveries with kills between their writes")


REASON = "copies of the state differ"
LOST = {"intact": {}, "lost": {HEAD_KEY: b"x"}, "lost with its copies": {HEAD_KEY: None, COPIES_PREFIX: None}}


def lose(store: Store, keys: dict[str, bytes | None]) -> None:
    for key, data in keys.items():
        if data is not None:
            store.write(key, data)
        elif key.endswith("/"):
            store.delete_prefix(key)
        else:
            store.delete(key)


def filled(root: Root) -> Root:
    """A root with three checkpoints, of which the newest is pinned."""
    root = with_keep(root, 5)
    fill(root, 1, 2, 3)
    edit(Store(root.spec), lambda head: with_pin(head, head.committed[0].path))
    return root


def steps_of(head: Head | None) -> list[int]:
    return [] if head is None else [entry.step for entry in head.committed]


@pytest.mark.parametrize("lost", LOST)
def test_a_return_killed_before_any_of_its_writes_is_finished_by_the_next_start(
    file_root: Root, monkeypatch: pytest.MonkeyPatch, trials: Trials, lost: str
) -> None:
    """The writes: the copy of HEAD, HEAD, the COMMIT that is deleted, the COMMIT that names the reason."""
    root = filled(file_root)
    pristine = snapshot_of(root.folder)
    for writes in range(5):
        shutil.rmtree(root.folder)
        for name, data in pristine.items():
            (root.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (root.folder / name).write_bytes(data)
        run = Run(root, random.Random(0), frozenset())
        with monkeypatch.context() as patched:
            run.guard(patched)
            with suppress(Abandoned), open_root(root) as checkpointer:
                run.life.writes_left = writes
                checkpointer.go_back(Distrust(1, REASON))
        if lost == "lost with its copies" and writes < 4:
            continue  # the marks are not complete: see docs/design/checkpoints.md
        lose(Store(root.spec), LOST[lost])
        assert steps_of(load_head(Store(root.spec))[0]) == ([1] if writes > (lost == "intact") else [3, 2, 1])
        with open_root(root) as checkpointer:
            found = steps_of(load_head(Store(root.spec))[0])
        assert found == ([1] if writes > (lost == "intact") else [3, 2, 1]), writes
        assert Store(root.spec).list(COPIES_PREFIX) == [f"{COPIES_PREFIX}{checkpointer.writer}.json"]
        head = decode_head((root.folder / "HEAD").read_bytes())
        if found == [1]:
            assert [bad.reason for bad in head.bad] == ["the run went back to step 1"], "the pinned one keeps its files"
            assert not any(run.counts(path) for path in run.prefixes() - {head.committed[0].path})
            with pytest.raises(
                BadConfiguration, match=r"step 3 any more \(the run went back to step 1\); there are 1$"
            ):
                entry_of(Store(root.spec), 3)
        if lost != "lost with its copies":
            assert [path.split(".")[0] for path in head.pinned] == ["steps/000000000003"]
            assert head.starts == 3
        trials.count("kills between the writes of a return")


def test_a_pin_of_a_run_that_does_not_train_outlives_head(file_root: Root) -> None:
    root = filled(file_root)
    (root.folder / "HEAD").unlink()
    head, _ = load_head(Store(root.spec))
    assert head is not None
    assert head.pinned == (head.committed[0].path,)


def test_a_fenced_writer_gives_up_nothing_of_a_newer_one(file_root: Root) -> None:
    root = filled(file_root)
    with open_root(root, epoch=epoch(7)) as old:
        fill(root, 4, epoch=epoch(8))
        with pytest.raises(Fenced):
            old.go_back(Distrust(1, REASON))
    assert steps_of(load_head(Store(root.spec))[0]) == [4, 3, 2, 1]
    (root.folder / "HEAD").unlink()
    head, reason = load_head(Store(root.spec))
    assert (steps_of(head), reason) == ([4, 3, 2, 1], "HEAD is missing")


def test_a_copy_of_an_older_start_does_not_undo_a_return_of_a_newer_one(file_root: Root) -> None:
    """HEAD and all copies are lost, and a writer that was stopped since before the return writes its own copy."""
    root = filled(file_root)
    with open_root(root, epoch=epoch(7)) as old:
        with open_root(root, epoch=epoch(8)) as new:
            new.go_back(Return(3, "jump", by_step=is_by_step))
            where = DataPosition(step=4, sequences=4, tokens=4, skipped=new.skipped)
            new.save(4, {"x": np.zeros(4)}, where)
            new.finish()
        lose(Store(root.spec), LOST["lost with its copies"])
        with pytest.raises(TrainerExit, match="HEAD is empty"):
            old.go_back(Distrust(1, REASON))
    assert Store(root.spec).list(COPIES_PREFIX) == [f"{COPIES_PREFIX}{old.writer}.json"]
    head, _ = load_head(Store(root.spec))
    assert head is not None
    assert (head.committed[0].step, head.skipped) == (4, new.skipped)


def test_a_commit_that_head_never_listed_does_not_come_back(file_root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was complete when its writer was killed, before HEAD. Then the run went back."""
    root = filled(file_root)
    run = Run(root, random.Random(0), frozenset())
    with monkeypatch.context() as patched:
        run.guard(patched)
        with open_root(root) as checkpointer:
            swap = Store.swap

            def no_head(store: Store, key: str, *arguments: Any) -> Any:
                if key == HEAD_KEY:
                    raise Abandoned
                return swap(store, key, *arguments)

            patched.setattr(Store, "swap", no_head)
            checkpointer.save(4, {"x": np.zeros(4)}, position(4))
            with pytest.raises(SaveFailed):
                checkpointer.finish()
    assert len([path for path in run.prefixes() if run.counts(path)]) == 4
    with open_root(root) as checkpointer:
        checkpointer.go_back(Distrust(1, REASON))
    (root.folder / "HEAD").write_bytes(b"x")
    assert steps_of(load_head(Store(root.spec))[0]) == [1]


def test_a_root_whose_checkpoints_are_all_damaged_never_begins_again_without_its_head(file_root: Root) -> None:
    fill(file_root, 1)
    (manifest,) = file_root.folder.glob(f"steps/*/{MANIFEST_KEY}")
    manifest.write_bytes(b"{}")
    for lost in ("lost", "lost with its copies"):
        lose(Store(file_root.spec), LOST[lost])
        with pytest.raises(NoValidCheckpoint, match="restore the files from a backup"):
            open_root(file_root)
