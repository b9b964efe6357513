"""The reference has every phase, reason, event, variable and metric of the operator, and no other reasons."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

import halcyon_operator
from halcyon_api.ends import HELD_REASONS
from halcyon_api.status.run_status import Phase
from halcyon_dashboards.queries import RUN_PODS_STUCK
from halcyon_operator import __main__
from halcyon_operator.decide.tell.conditions import DEGRADED_REASONS, NOT_STARTING, REFUSED, SILENT, STUCK_TERMINATING
from halcyon_operator.model import reasons
from halcyon_operator.run import reference
from halcyon_operator.run.metrics import Metrics

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "operator.md").read_text()
QUEUES = (Path(__file__).parents[2] / "docs" / "guides" / "queues.md").read_text()
PACKAGE = Path(halcyon_operator.__file__ or "").parent

SAID = {
    *get_args(Phase),
    *re.findall(r'envvar="(\w+)"', Path(__main__.__file__ or "").read_text()),
    *(f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in Metrics().registry.collect()),
}


@pytest.mark.parametrize(
    "word", sorted(word for word in SAID if not word.startswith(("process_", "python_", "halcyon_operator_build")))
)
def test_every_name_that_the_operator_reports_is_in_the_reference(word: str) -> None:
    assert f"`{word}`" in TEXT


def test_the_tables_are_generated() -> None:
    assert reference.written(TEXT) == TEXT, "run: make generate"


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_reference_has_the_reasons_of_stalled_and_no_others() -> None:
    """Those of a cause are in the table of causes, which is generated."""
    shown = re.findall(r"^\| `(\w+)` \|", section("Reasons of `Stalled`"), re.MULTILINE)
    assert sorted(shown) == sorted(get_args(reasons.OwnStallReason))


def test_the_reference_has_the_reasons_why_a_run_does_not_start_and_no_others() -> None:
    shown = re.findall(r"^\| `(\w+)` \|", section("Reasons why a run does not start yet"), re.MULTILINE)
    assert sorted(shown) == sorted(get_args(reasons.StartReason))


def test_the_guide_of_queues_has_the_reasons_of_a_queued_run() -> None:
    missing = [reason for reason in get_args(reasons.QueueReason) if f"`{reason}`" not in QUEUES]
    assert missing == []


def test_the_alert_about_stuck_pods_has_their_reasons() -> None:
    """All of `Degraded`, but for those that have an alert of their own."""
    (pattern,) = re.findall(r'reason!~"([\w|]+)"', RUN_PODS_STUCK)
    alone = pattern.split("|")
    assert sorted(alone) == sorted(("FewerSlices", *HELD_REASONS))
    assert {STUCK_TERMINATING, NOT_STARTING, REFUSED, SILENT} <= set(DEGRADED_REASONS) - set(alone)


def test_the_reference_has_the_reasons_of_events_and_no_others() -> None:
    """Those of `Stalled` and of causes stand for themselves in one row each."""
    shown = {word for word in re.findall(r"`(\w+)`", section("Events")) if word[0].isupper()}
    assert shown - {"Stalled"} == {*get_args(reasons.ChangeReason)}


def test_every_reason_is_given_somewhere() -> None:
    """The type checker rejects a reason that the types do not have; here, the types have no reason that nothing
    gives.
    """
    sources = "".join(path.read_text() for path in PACKAGE.rglob("*.py") if path != Path(reasons.__file__ or ""))
    unused = [
        one for one in (*get_args(reasons.OwnStallReason), *get_args(reasons.ChangeReason)) if f'"{one}"' not in sources
    ]
    assert unused == []
