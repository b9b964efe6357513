"""The operator follows each row of the table of causes, and keeps no other list of causes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic.alias_generators import to_snake

from halcyon_api.ends import EndCause
from halcyon_api.status.run_status import Restarts
from halcyon_operator.decide.next import recovery
from halcyon_operator.decide.record.follow import count_restart
from halcyon_operator.model.endings import cause_of
from halcyon_operator.observe.pods import parse_pod
from tests.operator.builders import ended, pod, termination

PACKAGE = Path(recovery.__file__).parents[1]


@pytest.mark.parametrize("cause", EndCause)
def test_the_operator_follows_each_row_of_the_table(cause: EndCause) -> None:
    assert getattr(count_restart(Restarts(), cause), to_snake(cause.counter)) == 1
    if cause.end.exit_code is not None:
        shown = parse_pod(pod(**ended(int(cause.exit_code), 5, termination(cause, int(cause.exit_code))))).ending
        assert shown is not None
        assert cause_of(shown) == cause
    assert (cause in recovery.FAILURES) == (cause.end.budget == "failure")
    assert (cause in recovery.FREE) == (cause.end.budget == "free")


def test_no_other_module_keeps_a_list_of_causes() -> None:
    """Rules of the decision table name single causes; any other literal collection of three or more causes would be a
    second table.
    """
    several = re.compile(r"[\[({](?:\s*EndCause\.\w+,){2,}\s*EndCause\.\w+")
    found = [path.name for path in sorted(PACKAGE.rglob("*.py")) if several.search(path.read_text())]
    assert found == []
