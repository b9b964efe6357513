"""The transitions of HEAD, as tables."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from halcyon.checkpoint.collect import orphans
from halcyon.checkpoint.head import check_ours, take, with_bad, with_commit, with_pin, without_deleted, without_pin
from halcyon.checkpoint.retention import Retention
from halcyon.checkpoint.verify import prefixes
from halcyon.host.errors import Fenced, PodsLost, RootTaken
from halcyon_api.checkpoint_documents import BadStep, CommittedStep, Head, Owner, decode_head, encode_head, step_prefix
from halcyon_api.spec.checkpoint import PermanentSpec
from tests.trainer.checkpoint.helpers import epoch

ME = Owner(namespace="team", name="run", uid="a")
ROOT = "s3://bucket/run"


def entry(step: int, attempt: int = 1, nonce: str = "x") -> CommittedStep:
    prefix = step_prefix(step, attempt, nonce)
    return CommittedStep(
        step=step,
        epoch=epoch(attempt),
        path=prefix,
        manifest_sha256="0" * 64,
        size_bytes=1,
        time="2026-01-01T00:00:00Z",
    )


def head(*entries: CommittedStep, attempt: int = 2, **changes: Any) -> Head:
    return Head(owner=ME, epoch=epoch(attempt), writer="w", committed=entries).model_copy(update=changes)


def taken(present: Head | None, **changes: Any) -> Head:
    return take(present, **({"owner": ME, "epoch": epoch(3), "writer": "me", "root": ROOT} | changes))


def test_a_new_root_gets_the_given_epoch_or_attempt_one() -> None:
    assert (taken(None).epoch, taken(None, epoch=None).epoch) == (epoch(3), epoch(1))
    assert taken(None).writer == "me"


@pytest.mark.parametrize("mine", [epoch(2, 1), epoch(3), epoch(2, 0)])
def test_a_newer_epoch_or_a_later_process_of_the_same_takes_the_root(mine: Any) -> None:
    present = head(entry(5))
    new = taken(present, epoch=mine)
    assert (new.epoch, new.writer, new.committed) == (mine, "me", present.committed)


@pytest.mark.parametrize(("earlier", "fenced"), [(None, False), (("v", "w"), False), (("u", "v"), True)])
def test_a_start_in_place_does_not_take_the_root_from_pods_that_replaced_its_own(
    earlier: tuple[str, ...] | None, fenced: bool
) -> None:
    with pytest.raises(Fenced) if fenced else nullcontext():
        taken(head(entry(5)), epoch=epoch(2), earlier=earlier)
    assert taken(head(entry(5)), earlier=earlier).writer == "me", "a newer epoch takes it from any"


def test_the_first_start_of_pods_whose_predecessors_were_all_lost_leaves_the_root() -> None:
    with pytest.raises(PodsLost):
        taken(head(entry(5)), epoch=epoch(2), earlier=())
    assert taken(head(entry(5), writer="me"), epoch=epoch(2), earlier=()).writer == "me", "its own second try"
    assert taken(head(entry(5)), earlier=()).writer == "me", "as the next restart"


def test_outside_a_cluster_the_next_attempt_is_minted() -> None:
    assert taken(head(attempt=7), epoch=None).epoch == epoch(8)


def test_outside_a_cluster_a_start_in_place_keeps_the_attempt_or_is_fenced() -> None:
    assert taken(head(attempt=7), epoch=None, earlier=("v", "w")).epoch == epoch(7)
    with pytest.raises(Fenced):
        taken(head(attempt=7), epoch=None, earlier=("u", "v"))


@pytest.mark.parametrize(("present", "mine"), [(epoch(4), epoch(3, 9)), (epoch(4, 2), epoch(4, 1))])
def test_an_older_epoch_is_fenced(present: Any, mine: Any) -> None:
    with pytest.raises(
        Fenced, match=f"taken by the newer start {present} of the run, so this process of start {mine} may not"
    ) as caught:
        taken(head(epoch=present), epoch=mine)
    assert caught.value.owner_attempt == 4


@pytest.mark.parametrize("other", [Owner(namespace="team", name="other"), Owner(namespace="rivals", name="run")])
def test_another_runs_root_is_rejected_and_a_recreated_run_keeps_its_root(other: Owner) -> None:
    with pytest.raises(
        RootTaken, match=f"{ROOT} belongs to the run team/run, not to {other.namespace}/{other.name}; give each run"
    ):
        taken(head(), owner=other)
    assert taken(head(), owner=Owner(namespace="team", name="run", uid="b")).owner.uid == "b"


def test_a_commit_keeps_the_newest_checkpoints_and_deletes_the_others() -> None:
    new = with_commit(head(entry(20), entry(10), deleting=("steps/old/",)), entry(30, 2), Retention(2))
    assert [one.step for one in new.committed] == [30, 20]
    assert new.deleting == ("steps/old/", entry(10).path)


def test_a_checkpoint_of_the_same_step_is_superseded() -> None:
    new = with_commit(head(entry(20, 1), entry(10)), entry(20, 2), Retention(2))
    assert new.committed == (entry(20, 2), entry(10))
    assert new.deleting == (entry(20, 1).path,)
    assert with_commit(new, entry(20, 2), Retention(2)) == new


PERMANENT = Retention(2, (PermanentSpec(every_steps=10, until_step=40), PermanentSpec(every_steps=100)))


def test_permanent_steps_are_saved_and_never_deleted() -> None:
    """Every 10th step up to 40, then every 100th: all that the rule names stay, however many newer ones there are."""
    new = head()
    for step in (5, 10, 15, 20, 40, 45, 50, 90, 100, 105, 110, 200, 205):
        new = with_commit(new, entry(step), PERMANENT)
    assert [one.step for one in new.committed] == [205, 200, 100, 40, 20, 10]
    assert set(new.deleting) == {entry(step).path for step in (5, 15, 45, 50, 90, 105, 110)}
    assert [step for step in range(250) if PERMANENT.is_permanent(step)] == [10, 20, 30, 40, 100, 200]


def test_a_pinned_checkpoint_is_kept_until_it_is_unpinned() -> None:
    new = with_pin(head(entry(20), entry(10)), entry(10).path)
    for step in (30, 40):
        new = with_commit(new, entry(step), Retention(2))
    assert [one.step for one in new.committed] == [40, 30, 10]
    new = with_commit(without_pin(new, entry(10).path), entry(50), Retention(2))
    assert [one.step for one in new.committed] == [50, 40]
    with pytest.raises(KeyError):
        with_pin(new, entry(10).path)


def test_a_bad_checkpoint_is_no_candidate_and_not_deleted() -> None:
    bad = BadStep(path=entry(20).path, step=20, reason="flipped")
    new = with_bad(head(entry(20), entry(10)), [bad])
    assert (new.committed, new.bad, new.deleting) == ((entry(10),), (bad,), ())
    assert with_bad(new, [bad]) == new


def test_finished_deletions_are_forgotten() -> None:
    assert without_deleted(head(deleting=("a/", "b/")), ["a/"]).deleting == ("b/",)


def test_orphans_are_the_prefixes_that_head_does_not_name() -> None:
    named = head(entry(2), bad=(BadStep(path="steps/bad/", step=1, reason="r"),), deleting=("steps/going/",))
    assert orphans([entry(2).path, "steps/bad/", "steps/going/", entry(3).path], named) == (entry(3).path,)


def test_files_of_the_current_writers_next_checkpoint_are_no_orphans() -> None:
    """A process may know of a commit and write its part of the next checkpoint while process 0 still cleans up after
    that commit.
    """
    ours, older = step_prefix(20, 1, "ab12-1"), step_prefix(15, 1, "9f9f-1")
    assert orphans([older, ours], head(writer="ab12")) == (older,)


def test_only_prefixes_of_checkpoints_are_recognized() -> None:
    keys = [
        f"{step_prefix(5, 1, 'ab12-1')}data/x/c/0",
        f"{step_prefix(5, 1, 'ab12-1')}COMMIT",
        f"{step_prefix(10**13, 1, 'ff')}COMMIT",
        "steps/notes.txt",
        "steps/latest/COMMIT",
        "steps/000000000005.000001/COMMIT",
        "compiled/000000000005.000001.aa/COMMIT",
    ]
    assert prefixes(keys) == (step_prefix(5, 1, "ab12-1"), step_prefix(10**13, 1, "ff"))


def test_only_the_process_that_head_names_owns_the_root() -> None:
    present = head(epoch=epoch(4), writer="new")
    assert check_ours(present, epoch(4), "new", ROOT) == present
    with pytest.raises(Fenced, match=r"taken by the newer process of start 4 "):
        check_ours(present, epoch(4), "old", ROOT)
    with pytest.raises(Fenced, match=r"taken by the newer start 4 of the run, so this process of start 3 "):
        check_ours(present, epoch(3), "new", ROOT)


def test_head_is_unchanged_by_encoding_and_decoding() -> None:
    full = head(entry(20), entry(10), bad=(BadStep(path="steps/bad/", step=1, reason="ümlaut"),), deleting=("a/",))
    assert decode_head(encode_head(full)) == full
