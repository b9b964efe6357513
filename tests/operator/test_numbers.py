"""Numbers of a status have few enough digits for a person to read them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from halcyon_api.status.plan import PlanStatus
from halcyon_api.status.progress import Evaluated, Progress, SourceEvaluation
from halcyon_api.status.run_status import Spending, TrainingRunStatus
from halcyon_operator.decide.next.budget import within_budget
from halcyon_operator.decide.record.history import shown
from halcyon_operator.decide.record.plan import plan_hash, with_plan
from halcyon_operator.decide.tell.conditions import planned
from halcyon_operator.decide.tell.events import budget_nearly_spent
from halcyon_operator.model.numbers import DIGITS, readable
from halcyon_operator.model.views import PlannerView
from halcyon_operator.observe.jobsets import parse_jobset
from tests.operator.builders import at, jobset, observed, run

RAW = 345.71234567


def fractions(value: Any) -> Iterator[float]:
    """All fractions in a document."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from fractions(part)
    elif isinstance(value, list):
        for part in value:
            yield from fractions(part)


def all_raw(model: type[Any], **more: Any) -> Any:
    """A part of the status whose every optional fraction has all digits."""
    names = [name for name, field in model.model_fields.items() if "float" in str(field.annotation)]
    return model(**{name: RAW for name in names if "dict" not in str(model.model_fields[name].annotation)}, **more)


def test_no_number_of_progress_has_more_digits_than_can_be_read() -> None:
    evaluated = Evaluated(run="other", step=1, path="steps/1", sources=[all_raw(SourceEvaluation, source="text")])
    progress = shown(all_raw(Progress, tasks={"arc-easy": RAW}, evaluated=evaluated), None)
    found = list(fractions(progress.document()))
    assert len(found) >= 16, "every fraction of the contract"
    assert set(found) == {345.71}
    assert shown(Progress(loss=2.2699123, steps=7), None).document() == {
        "loss": 2.2699,
        "step": 0,
        "steps": 7,
        "tokens": 0,
    }


def test_no_number_of_a_plan_has_more_digits_than_can_be_read() -> None:
    seen = observed(run(accelerator={"type": "v5e", "topology": "2x2", "pricePerChipHour": 1.23456789}))
    assert seen.run.spec is not None
    answer = all_raw(PlanStatus)
    planner = PlannerView(parse_jobset(jobset()), plan_hash(seen.run.spec), answer=answer)
    found = with_plan(replace(replace(seen, planner=planner), now=at(0)), TrainingRunStatus()).plan
    assert found is not None
    assert {*fractions(found.document())} == {345.71, float(f"{RAW * 1.23456789:.{DIGITS}g}")}
    assert found.hash == plan_hash(seen.run.spec)


@pytest.mark.parametrize("value", [1e300, 1e-300, 0.0, -1.0, 123456.789])
def test_a_readable_number_is_near_the_number(value: float) -> None:
    assert readable(value) == pytest.approx(value, rel=1e-4)
    assert readable(readable(value)) == readable(value)


def test_sentences_name_no_share_that_is_no_percentage() -> None:
    share = [*budget_nearly_spent(TrainingRunStatus(), TrainingRunStatus(spent=Spending(share=78_418.0)))]
    slow = planned(
        TrainingRunStatus(
            plan=PlanStatus(fits=True, tokens_per_second=1e18, step_seconds=1.0),
            progress=Progress(step=100, tokens_per_second=3.0),
        )
    )
    spent = within_budget(
        observed(run(budget={"chipHours": 1e-6}), now=at(0)), Spending(chip_hours=0.0784183)
    ).run.budget_spent
    assert share[0].message.startswith("over 1,000% of spec.budget is used")
    assert slow[2].startswith("the run trains at under 1% of the planned speed")
    assert spent == "spec.budget.chipHours: 0.0784 of 1e-06 chip-hours are used"
    assert not re.search(r"\d{6,}%", share[0].message + slow[2])
