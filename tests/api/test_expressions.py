"""The expressions of the API server's rules in Python. `test_rules.py` has every rule of the contract."""

from __future__ import annotations

import pytest

from halcyon_api.expressions import evaluated
from halcyon_api.spec.origin import OriginSpec
from tests.api.rules import all_rules

ORIGIN = OriginSpec(run="base", step=3, only=["embedding.*", "head"])


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("has(self.run) && !has(self.huggingFace)", True),
        ("self.?huggingFace.?path.hasValue() || self.?huggingFace.?path.orValue('from') == 'from'", True),
        ("self.run in ['other', 'true && false'] || self.?weightsOnly.orValue(false)", False),
        ("[has(self.run), has(self.root)].exists_one(one, one)", True),
        ("self.only.all(one, one.matches('^[a-z]+')) && self.only.exists(one, one.endsWith('*'))", True),
        ("self.only.size() * self.step / 4 % 2 == 1", True),
        ("int(self.only[0].split('.')[1].size()) == -1 + 2", True),
    ],
)
def test_an_expression_has_the_value_of_cel(expression: str, value: bool) -> None:
    assert evaluated(expression)(ORIGIN) is value


def test_a_rule_with_an_expression_that_is_not_read_has_a_check() -> None:
    with pytest.raises(SyntaxError):
        evaluated("has(self.run) ? 1 : 2")
    for rule in all_rules():
        assert rule.check or evaluated(rule.expression)
