"""A return to an earlier checkpoint: which one, which batches are left out, and what HEAD then says.

A table, without files.
"""

from __future__ import annotations

from halcyon.checkpoint.evidence import StepNumbers
from halcyon.checkpoint.head import with_commit
from halcyon.checkpoint.retention import Retention
from halcyon.checkpoint.rollback import (
    Distrust,
    KeepsNewest,
    Return,
    batch_number,
    in_force,
    until,
)
from halcyon_api.checkpoint_documents import (
    CommittedStep,
    Epoch,
    EvaluationRecord,
    Head,
    Owner,
    decode_head,
    encode_head,
)

EPOCH = Epoch(attempt=2, restart=1)


def entry(step: int) -> CommittedStep:
    time = "2026-01-01T00:00:00Z"
    return CommittedStep(
        step=step, epoch=EPOCH, path=f"steps/{step}/", manifest_sha256="0" * 64, size_bytes=1, time=time
    )


def head_of(*steps: int, pinned: tuple[str, ...] = ()) -> Head:
    committed = tuple(map(entry, sorted(steps, reverse=True)))
    return Head(owner=Owner(namespace="tests", name="tiny"), epoch=EPOCH, committed=committed, pinned=pinned)


def by_tens(step: int) -> bool:
    return step % 10 == 0


def numbers(head: Head, steps: range) -> list[int]:
    return [batch_number(head.skipped, step) for step in steps]


def test_without_a_return_the_batch_has_the_number_of_the_step() -> None:
    assert numbers(head_of(10), range(20)) == list(range(20))


def test_a_return_leaves_out_the_batches_from_the_checkpoint_to_the_bad_step() -> None:
    """Step 14, which has batch 13, is bad: batches 10 to 13 are left out, and those before step 11 stay."""
    head = Return(14, "jump", by_step=by_tens).applied(head_of(0, 10))
    assert numbers(head, range(8, 13)) == [8, 9, 14, 15, 16]
    assert [one.step for one in head.committed] == [10, 0]
    assert (head.skipped[0].step, head.skipped[0].batches, head.skipped[0].epoch) == (10, 4, EPOCH)
    assert decode_head(encode_head(head)) == head


def test_further_batches_can_be_left_out_and_a_second_return_to_the_same_checkpoint_adds_its_own() -> None:
    once = Return(14, "jump", further=2, by_step=by_tens).applied(head_of(10))
    assert batch_number(once.skipped, 10) == 16
    again = Return(12, "jump", by_step=by_tens).applied(once)  # step 12 has batch 17
    assert numbers(again, range(9, 12)) == [9, 18, 19]


def test_a_return_to_an_earlier_checkpoint_replaces_what_came_after_it() -> None:
    once = Return(24, "jump", by_step=by_tens).applied(head_of(10, 20))
    lost = once.model_copy(update={"committed": (entry(10),)})  # the checkpoint of step 20 did not verify
    again = Return(22, "jump", by_step=by_tens).applied(lost)  # step 22 had batch 21 + 4
    assert [one.step for one in in_force(again.skipped)] == [10]
    assert len(again.skipped) == 2
    assert numbers(again, range(9, 12)) == [9, 26, 27]


def test_a_checkpoint_made_by_step_is_preferred_and_newer_ones_leave_the_list() -> None:
    """The save of step 13 came with a preemption notice. A run without the notice has none."""
    head = head_of(10, 12, 13, pinned=("steps/12/",))
    back = Return(14, "jump", by_step=by_tens).applied(head)
    assert [one.step for one in back.committed] == [10]
    assert back.deleting == ("steps/13/",)
    assert [one.path for one in back.bad] == ["steps/12/"]
    undisturbed = Return(14, "jump", by_step=by_tens).applied(head_of(10))
    assert back.skipped == undisturbed.skipped
    only = Return(14, "jump", by_step=lambda step: False).target(head)
    assert only is not None
    assert only.step == 13


def test_without_an_earlier_checkpoint_head_stays() -> None:
    head = head_of()
    assert Return(3, "jump").applied(head) is head


def test_a_checkpoint_has_only_its_own_past() -> None:
    head = Return(24, "jump", by_step=by_tens).applied(head_of(10, 20))
    assert until(head.skipped, 19) == ()
    assert until(head.skipped, 20) == head.skipped


def evaluated(step: int, best: int) -> CommittedStep:
    record = EvaluationRecord(metric="loss", evaluated_step=step, best_step=best, best_value=1.0)
    return entry(step).model_copy(update={"evaluation": record})


def test_the_best_evaluation_is_again_that_of_the_checkpoint() -> None:
    """Step 15 was the best, but its model is left behind: step 4 is the best again, and retention keeps it."""
    head = head_of().model_copy(update={"committed": (evaluated(15, 15), evaluated(10, 4), evaluated(4, 4))})
    back = Return(17, "jump", by_step=by_tens).applied(head)
    assert [(one.step, one.evaluation and one.evaluation.best_step) for one in back.committed] == [(10, 4), (4, 4)]
    for step in (20, 30):
        back = with_commit(back, evaluated(step, 4), Retention(1))
    assert [one.step for one in back.committed] == [30, 4]


def test_the_newest_checkpoint_made_by_step_is_kept() -> None:
    keeps = KeepsNewest(by_tens, (entry(13), entry(10)))
    assert [step for step in (9, 10, 13) if keeps.in_use(step)] == [10]
    keeps.committed(entry(17))
    keeps.committed(entry(20))
    assert keeps.in_use(20)
    assert not keeps.in_use(10)


def test_after_wrong_numbers_the_newest_confirmed_checkpoint_is_the_newest_and_no_batch_is_left_out() -> None:
    head = head_of(0, 10, 20, 30, pinned=("steps/30/",))
    back = Distrust(25, "copies of the state differ").applied(head)
    assert [one.step for one in back.committed] == [20, 10, 0]
    assert [(one.path, one.reason) for one in back.bad] == [("steps/30/", "the run went back to step 20")]
    assert numbers(back, range(18, 23)) == [18, 19, 20, 21, 22]
    assert [(one.step, one.batches, one.reason) for one in back.skipped] == [(20, 0, "copies of the state differ")]
    assert Distrust(30, "x").applied(head) == head, "the newest is confirmed"
    assert [one.step for one in Distrust(5, "x").applied(head_of(10, 20)).committed] == [10], "the oldest, without one"
    assert Distrust(5, "x").applied(head_of()) == head_of()


def test_batches_that_a_divergence_left_out_stay_left_out_after_wrong_numbers() -> None:
    once = Return(14, "jump", by_step=by_tens).applied(head_of(10))
    later = once.model_copy(update={"committed": (entry(30), entry(20), *once.committed)})
    back = Distrust(20, "wrong").applied(later)
    assert numbers(back, range(18, 22)) == numbers(once, range(18, 22))
    earlier = Distrust(10, "wrong").applied(later)
    assert numbers(earlier, range(8, 12)) == numbers(once, range(8, 12))


def test_a_return_takes_back_the_audits_of_the_steps_that_are_done_again() -> None:
    known = StepNumbers()
    known.went_back(10)
    assert known.audited is None
    known.audited = 12
    known.went_back(10)
    assert known.audited == 10
    known.went_back(11)
    assert known.audited == 10


def test_the_newest_confirmed_checkpoint_is_kept_while_newer_ones_come() -> None:
    audited = 0
    keeps = KeepsNewest(lambda step: step <= audited, head_of(0).committed)
    head = head_of(0)
    retention = Retention(newest=1, permanent=(), in_use=keeps.in_use)
    for step in (5, 10, 15, 20):
        audited = 10 if step >= 10 else 0
        keeps.committed(entry(step))
        head = with_commit(head, entry(step), retention)
    assert [one.step for one in head.committed] == [20, 10]
