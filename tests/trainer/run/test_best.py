"""The best checkpoint and early stopping: a pure function of the evaluations, whose state is in each checkpoint."""

from __future__ import annotations

import math

import pytest

from halcyon.checkpoint.head import with_commit
from halcyon.checkpoint.retention import Retention, dispensable
from halcyon.run.best import BestWatch
from halcyon_api.checkpoint_documents import (
    CommittedStep,
    Epoch,
    EvaluationRecord,
    Head,
    Owner,
    decode_head,
    encode_head,
)
from halcyon_api.spec.evaluation import BestSpec
from halcyon_api.status.evaluation import EvaluatedSets, Evaluation, averages

EPOCH = Epoch(attempt=1, restart=0)
HEAD = Head(owner=Owner(namespace="default", name="run"), epoch=EPOCH)


def evaluation(loss: float, tokens: float = 10.0, size_bytes: int = 20, right: float = math.nan) -> Evaluation:
    return Evaluation(nats=loss * tokens, weight=tokens, size_bytes=size_bytes, sequences=1, seconds=0.1, right=right)


def sets(loss: float) -> EvaluatedSets:
    return EvaluatedSets(evaluation(loss))


def test_micro_averages_count_tokens_and_macro_averages_count_sources() -> None:
    found = averages([evaluation(1.0, tokens=30), evaluation(3.0, tokens=10)])
    assert (found.micro.loss, found.macro_loss) == (1.5, 2.0)
    by_hand = (30 / (math.log(2) * 20) + 30 / (math.log(2) * 20)) / 2
    assert found.macro_bits_per_byte == pytest.approx(by_hand)
    assert averages([evaluation(1.0), evaluation(1.0, size_bytes=0)]).macro_bits_per_byte is None


@pytest.mark.parametrize(
    ("best", "value"),
    [
        (BestSpec(), 1.5),
        (BestSpec(average="macro"), 2.0),
        (BestSpec(of="b"), 3.0),
        (BestSpec(of="code"), 1.0),
        (BestSpec(metric="bitsPerByte", of="a"), 30 / math.log(2) / 20),
        (BestSpec(of="gone"), math.nan),
        (BestSpec(metric="accuracy"), 0.5),
        (BestSpec(metric="accuracy", average="macro"), (0.6 + 0.2) / 2),
    ],
)
def test_the_number_that_is_compared(best: BestSpec, value: float) -> None:
    parts = {"a": evaluation(1.0, tokens=30, right=18), "b": evaluation(3.0, tokens=10, right=2)}
    whole = EvaluatedSets(averages(parts.values()).micro, parts, {"code": ("a",)})
    assert whole.value(best) == pytest.approx(value, nan_ok=True)


def test_a_run_stops_after_its_patience_and_a_resumed_run_at_the_same_step() -> None:
    best = BestSpec(patience=2, min_improvement=0.1)
    losses = {10: 3.0, 20: 2.0, 30: 1.95, 40: math.nan, 50: 1.0}
    through = BestWatch(best)
    seen = {}
    for step, loss in losses.items():
        improved = through.evaluated(step, sets(loss))
        seen[step] = (improved, through.stop is not None)
        resumed = BestWatch(
            best, EvaluationRecord.model_validate_json(through.record.model_dump_json()) if through.record else None
        )
        assert (resumed.record, resumed.stop) == (through.record, through.stop)
        if through.stop:
            break
    assert seen == {10: (True, False), 20: (True, False), 30: (False, False), 40: (False, True)}
    assert through.stop == "the micro loss of all sources has not improved in 2 evaluations; the best is 2 at step 20"
    assert BestWatch(BestSpec(patience=3), through.record).stop is None, "more patience goes on"


def test_the_greatest_accuracy_is_the_best() -> None:
    watch = BestWatch(BestSpec(metric="accuracy", min_improvement=0.15))
    rights = (3, 5, 6, 7, math.nan, 2)
    seen = [watch.evaluated(step, EvaluatedSets(evaluation(9.0, right=right))) for step, right in enumerate(rights)]
    assert seen == [True, True, False, True, False, False]
    assert watch.record is not None
    assert watch.record.best_value == 0.7


def test_another_number_begins_again_and_a_missing_evaluation_is_noticed() -> None:
    watch = BestWatch(BestSpec())
    watch.evaluated(10, sets(2.0))
    assert not BestWatch(BestSpec(), watch.record).is_missing(10)
    assert BestWatch(BestSpec(), watch.record).is_missing(20)
    assert BestWatch(BestSpec(metric="bitsPerByte"), watch.record).is_missing(10)
    inactive = BestWatch(None, watch.record)
    assert (inactive.record, inactive.stop, inactive.is_missing(20)) == (None, None, False)


def committed(step: int, best: int | None) -> CommittedStep:
    record = (
        None if best is None else EvaluationRecord(metric="loss", evaluated_step=step, best_step=best, best_value=1.0)
    )
    name = f"steps/{step:012d}.000001.x/"
    return CommittedStep(
        step=step,
        epoch=EPOCH,
        path=name,
        manifest_sha256="0" * 64,
        size_bytes=1,
        time="2026-01-01T00:00:00Z",
        evaluation=record,
    )


def steps_after(saves: list[tuple[int, int | None]], keep: int = 2) -> list[int]:
    head = HEAD
    for step, best in saves:
        head = with_commit(head, committed(step, best), Retention(keep))
    assert decode_head(encode_head(head)) == head
    return [entry.step for entry in head.committed]


@pytest.mark.parametrize(
    ("saves", "kept"),
    [
        ([(1, None), (2, None), (3, None)], [3, 2]),
        ([(1, 1), (2, 1), (3, 1), (4, 1)], [4, 3, 1]),
        ([(1, 1), (2, 1), (3, 3)], [3, 2, 1]),
        ([(1, 1), (2, 1), (3, 3), (4, 3)], [4, 3]),
        ([(1, 1), (2, 1), (3, 1), (4, 1), (6, 5), (7, 5), (8, 5)], [8, 7, 1]),
    ],
    ids=[
        "no evaluations",
        "the best stays",
        "until a newer best is not alone",
        "then it goes",
        "the save of step 5 failed",
    ],
)
def test_retention_never_deletes_the_best_checkpoint(saves: list[tuple[int, int | None]], kept: list[int]) -> None:
    assert steps_after(saves) == kept


def test_a_full_disk_does_not_delete_the_best_checkpoint() -> None:
    head = HEAD.model_copy(update={"committed": (committed(5, 1), committed(4, 1), committed(2, 1), committed(1, 1))})
    found = dispensable(head, Retention(4))
    assert found is not None
    assert found.step == 2
