"""One table of the causes of an end: all lists of causes, counters, exit codes and event reasons come from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from halcyon_api.exit_codes import FATAL_CODES, ExitCode
from halcyon_api.status.run_status import Restarts
from halcyon_operator.decide import recovery
from halcyon_operator.decide.follow import count_restart
from halcyon_operator.model.causes import ENDS, EndCause
from halcyon_operator.model.endings import cause_of
from halcyon_operator.observe.pods import parse_pod
from tests.operator.builders import ended, pod

PACKAGE = Path(recovery.__file__).parents[1]
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "recovery.md"


def test_every_cause_has_one_row() -> None:
    assert tuple(ENDS) == get_args(EndCause)
    assert all(row.cause == cause for cause, row in ENDS.items())


def test_every_exit_code_with_a_meaning_has_one_cause() -> None:
    codes = [row.exit_code for row in ENDS.values() if row.exit_code is not None]
    assert sorted(codes) == sorted({ExitCode.DONE, ExitCode.PREEMPTED, *FATAL_CODES}), "each code must have one cause"


@pytest.mark.parametrize("row", ENDS.values(), ids=lambda row: row.cause)
def test_the_operator_follows_each_row_of_the_table(row: object) -> None:
    row = ENDS[row.cause]  # type: ignore[attr-defined]
    assert getattr(count_restart(Restarts(), row.cause), row.counter) == 1
    if row.exit_code is not None:
        ending = parse_pod(pod(**ended(int(row.exit_code), 5))).ending
        assert ending is not None
        assert cause_of(ending) == row.cause
    assert (row.cause in recovery.FAILURES) == (row.budget == "failure")
    assert (row.cause in recovery.FREE) == (row.budget == "free")


def test_every_counter_of_the_status_has_a_cause() -> None:
    assert {row.counter for row in ENDS.values()} | {"total"} == set(Restarts.model_fields)


def test_the_reference_has_every_row() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for row in ENDS.values():
        assert re.search(rf"^\| `{row.cause}` \|", text, flags=re.M), row.cause


def test_no_other_module_keeps_a_list_of_causes() -> None:
    """Rules of the decision table name single causes; any other literal collection of three or more causes would be a second table."""
    names = "|".join(get_args(EndCause))
    several = re.compile(rf'[\[({{](?:\s*"(?:{names})"(?:: "\w+")?,){{2,}}\s*"(?:{names})"')
    found = [path.name for path in sorted(PACKAGE.rglob("*.py")) if path.name != "causes.py" and several.search(path.read_text())]
    assert found == []
