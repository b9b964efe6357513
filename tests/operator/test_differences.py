"""The difference of two documents has everything that differs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.operator.differences import difference

BASE: dict[str, Any] = {
    "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
    "codes": [1, 2],
    "pod": {"image": "one"},
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {}),
        ({"pod": {"image": "two"}}, {"set": {"pod.image": "two"}}),
        ({"pod": {}}, {"absent": ["pod.image"]}),
        ({"new": {"a": 1}}, {"set": {"new": {"a": 1}}}),
        ({"codes": [1]}, {"set": {"codes": [1]}}),
        ({"env": [BASE["env"][0], {"name": "B", "value": "3"}]}, {"set": {"env[B].value": "3"}}),
        ({"env": [*BASE["env"], {"name": "C"}]}, {"set": {"env[C]": {"name": "C"}}}),
        ({"env": BASE["env"][:1]}, {"absent": ["env[B]"]}),
        ({"env": BASE["env"][::-1]}, {"set": {"env[]": ["B", "A"]}}),
        ({"env": [BASE["env"][0], BASE["env"][0]]}, {"set": {"env": [BASE["env"][0]] * 2}}),
    ],
    ids=str,
)
def test_a_difference_has_everything_that_differs(change: dict[str, Any], expected: dict[str, Any]) -> None:
    assert difference(BASE, {**BASE, **change}) == expected
