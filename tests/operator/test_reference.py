"""The reference has every phase, reason, event, variable and metric of the operator."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from halcyon_api.status import Phase, RestartCause
from halcyon_operator import __main__
from halcyon_operator.decide import attempts, events
from halcyon_operator.decide.describe import _WAITING_REASONS
from halcyon_operator.decide.recovery import STICKY_REASONS
from halcyon_operator.model.causes import ENDS
from halcyon_operator.run.metrics import Metrics

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "operator.md").read_text()
SOURCES = [Path(module.__file__ or "").read_text() for module in (attempts, events, __main__)]

SAID = {
    *get_args(Phase),
    *set(get_args(RestartCause)) - {"unknown"},
    *STICKY_REASONS,
    *_WAITING_REASONS.values(),
    *(row.event for row in ENDS.values()),
    *re.findall(r'Stall\(\s*"(\w+)"', SOURCES[0]),
    *re.findall(r'Event\("\w+", "(\w+)"', SOURCES[1]),
    *re.findall(r'envvar="(\w+)"', SOURCES[2]),
    *(f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in Metrics().registry.collect()),
}


@pytest.mark.parametrize("word", sorted(word for word in SAID if not word.startswith(("process_", "python_", "halcyon_operator_build"))))
def test_every_name_that_the_operator_reports_is_in_the_reference(word: str) -> None:
    assert f"`{word}`" in TEXT
