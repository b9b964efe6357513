"""Each rule is declared once. Without an API server it rejects the documents that it should. tests/apiserver tests the
API server's messages."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_api.base import InvalidRun
from halcyon_api.defaults.resource import parse_defaults
from halcyon_api.reading import parse_run
from tests.api.rules import BROKEN, all_rules


def test_every_rule_has_a_document_that_breaks_it_and_every_document_a_rule() -> None:
    messages = [rule.message for rule in all_rules()]
    assert [message for message in messages if not any(message.startswith(beginning) for beginning, _ in BROKEN)] == []
    assert [
        beginning for beginning, _ in BROKEN if not any(message.startswith(beginning) for message in messages)
    ] == []


@pytest.mark.parametrize(("beginning", "document"), BROKEN, ids=lambda value: value if isinstance(value, str) else "")
def test_a_broken_rule_is_reported_in_one_sentence(beginning: str, document: dict[str, Any]) -> None:
    with pytest.raises(InvalidRun) as refused:
        (parse_run if document["kind"] == "TrainingRun" else parse_defaults)(document)
    assert beginning in str(refused.value)
    assert "; spec." not in str(refused.value), "one fault must be reported in one sentence"
